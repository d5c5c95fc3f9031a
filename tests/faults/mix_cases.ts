/**
 * T1: runs of a model on the Hub through which anything goes wrong: the network, the disk, and
 * whoever stops them, again and again. Each ends in the output or in a sentence; what is made in
 * the end is what an undisturbed run makes.
 */
import assert from "node:assert/strict";
import { openWasm } from "../../src/backends/wasm/mod.ts";
import { CheckpointError, HubError, RequestError, SpaceError } from "../../src/errors.ts";
import { disk as machine } from "../../src/io/disk.ts";
import { openFolderSink } from "../../src/sinks/folder.ts";
import { openHub } from "../../src/sources/hub.ts";
import type { Fault, FaultMatch } from "../fake_hub/mod.ts";
import { clientOf, seeded, startHub } from "../hub_given.ts";
import { type Attempt, attempt, outcomeOf, Stop, stopAfter, type Work } from "../resume_given.ts";
import { bytesOf, folder, tinyWindows } from "../run_given.ts";
import { livelyNorms, makeCheckpoint, TINY_CONFIG, tinyTensors } from "../tiny.ts";
import type { Suite } from "./suite.ts";
import { type Failing, FAULTS, twinOf } from "./twin.ts";

const RUNS = 200;
/** Tries of a run that may be disturbed. */
const TRIES = 4;

/** What is drawn of a run's number. */
class Draw {
  readonly #next: () => number;
  constructor(seed: number) {
    this.#next = seeded(seed);
  }
  below(end: number): number {
    return Math.floor(this.#next() * end);
  }
  one<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }

  /** What goes wrong on the network, with a file of so many bytes. */
  network(bytes: number): Fault & FaultMatch {
    const at = this.below(bytes);
    const framing = this.one(["length", "chunked", "close"] as const);
    const fault = this.one<Fault>([
      { kind: "cut", at, how: this.one(["close", "reset", "stall"]) },
      { kind: "short", by: 1 + at % 500, framing },
      { kind: "long", by: 1 + at % 500, framing },
      { kind: "corrupt", at, xor: 1 << at % 8 },
      { kind: "status", status: this.one([403, 404, 408, 429, 500, 503]) },
      { kind: "ignore_range" },
      { kind: "html" },
      { kind: "gzip" },
      { kind: "reset" },
    ]);
    const where = this.one<FaultMatch>([{ on: "storage" }, { on: "hub" }, {}]);
    return { ...fault, ...where, skip: this.below(4), times: this.one([1, 1, 1, 2, 4, 1000]) };
  }

  /** What goes wrong on the disk, of so many operations. */
  disk(operations: number): Failing | undefined {
    if (this.below(2) === 0) return undefined;
    return {
      fault: this.one(Object.keys(FAULTS) as (keyof typeof FAULTS)[]),
      at: this.below(operations),
      of: this.one(["writes", "all"]),
      persistent: this.below(2) === 0,
    };
  }

  /** How it is stopped. */
  stop(): Pick<Attempt, "change" | "signal"> {
    const how = this.below(3);
    if (how === 0) return {};
    if (how === 1) return stopAfter(1 + this.below(4));
    return { signal: AbortSignal.timeout(this.below(200)) };
  }
}

/** What a person is meant to see, or has asked for. */
function isTold(error: unknown): boolean {
  if (error instanceof SuppressedError) return isTold(error.suppressed);
  return [SpaceError, RequestError, HubError, CheckpointError, Stop].some((kind) =>
    error instanceof kind
  ) || error instanceof DOMException && error.name === "TimeoutError";
}

/** Anything at all. */
export const T1: Suite = {
  id: "T1",
  title: "runs from the Hub through any mix of faults of network and disk, and stops",
  share: 3,
  async open(seed) {
    await using undo = new AsyncDisposableStack();
    const backend = undo.use(await openWasm({ threads: 1 }));
    const at = undo.use(await folder());
    const model = await makeCheckpoint(tinyTensors(), {
      config: TINY_CONFIG,
      change: livelyNorms("bf16"),
    });
    undo.defer(() => Deno.remove(model, { recursive: true }));
    const { size } = await Deno.stat(`${model}/model.safetensors`);
    const files = Object.fromEntries(
      await Promise.all(
        [...Deno.readDirSync(model)].map(async ({ name }) =>
          [name, await Deno.readFile(`${model}/${name}`)] as const
        ),
      ),
    );
    const hub = undo.use(await startHub(files));
    const work = (home: string, disk = machine): Work => ({
      model: "org/model",
      open: (name) =>
        openHub(name, {
          client: clientOf(hub, { idleTimeout: 100 }),
          stagingFolder: `${home}/staging`,
          maxDisk: size,
          disk,
        }),
      options: { scheme: "W4A16", "group-size": 32, method: "gptq", "max-shard-size": "50KB" },
      evaluation: { windows: tinyWindows(3, 12), stateBudget: 1e7 },
      calibration: { windows: tinyWindows(5, 40), stateBudget: 1e7 },
      backend,
      out: `${home}/made/out`,
    });
    const base = await Deno.realPath(at.path);
    const whole = work(base);
    const twin = twinOf(base);
    const expected = await outcomeOf(whole.out, await attempt(whole, { disk: twin.disk }));
    const kept = undo.move();
    return {
      count: RUNS,
      async run(index) {
        const draw = new Draw(seed * 7919 + index);
        await using place = await folder();
        const home = await Deno.realPath(place.path);
        let tries = 0;
        for (; !await machine.lstat(`${home}/made/out`); tries++) {
          hub.faults.clear();
          const disturbed = tries < TRIES;
          if (disturbed) {
            for (let i = draw.below(4); i > 0; i--) hub.faults.add(draw.network(size));
          }
          const { disk } = twinOf(home, disturbed ? draw.disk(twin.asked.all) : undefined);
          try {
            const given = { disk, ...(disturbed ? draw.stop() : {}) };
            const report = await attempt(work(home, disk), given);
            assert.deepEqual(await outcomeOf(`${home}/made/out`, report), expected);
          } catch (error) {
            // What was damaged on its way to an earlier try may be found out in a good one, once.
            const late = tries === TRIES && error instanceof HubError && error.kind === "damaged";
            if (!(disturbed || late) || !isTold(error)) throw error;
          }
        }
        hub.faults.clear();
        assert.deepEqual(await bytesOf(`${home}/made/out`), (expected as { bytes: object }).bytes);
        {
          await using _ = await openFolderSink(`${home}/made/out-next`);
        }
        assert.deepEqual(await machine.list(`${home}/made`), ["out"]);
        assert.deepEqual(hub.violations, []);
        return `made at try ${tries}`;
      },
      [Symbol.asyncDispose]: () => kept.disposeAsync(),
    };
  },
};
