/**
 * G3: the GPU computes wrongly. An op whose outputs are wrong from some call on ends the run, always:
 * with a DeviceError that says so, unless what is not finite by a call that is not checked is seen
 * first. A single word that is wrong, once or from then on, is found where the part of a call that
 * is checked has it; how often is counted. The same command goes on on a sound GPU, to the same
 * bytes; where what is wrong was saved before it was found, `restart` makes them.
 */
import assert from "node:assert/strict";
import { isDeepStrictEqual } from "node:util";
import type { Backend } from "../../src/backend.ts";
import { withSpotChecks } from "../../src/backends/spot_checks.ts";
import { CheckpointError, DeviceError } from "../../src/errors.ts";
import type { Op } from "../../src/op.ts";
import { ABSENT_GPU } from "../adapter.ts";
import { afterEach, flip, wordsOf } from "../flipped.ts";
import { attempt, outcomeOf, type Work } from "../resume_given.ts";
import { folder } from "../run_given.ts";
import { randoms } from "../tiny.ts";
import { gpuWork } from "./gpu_given.ts";
import type { Suite } from "./suite.ts";

const KINDS = ["all words from a call on", "a word from a call on", "a word once"] as const;
const CASES = 60;

/** Every call that is chosen is checked, however long it takes. */
const ALL = { share: Infinity };

/** What is wrong with a GPU. */
interface Fault {
  readonly kind: typeof KINDS[number];
  readonly op: Op;
  /** Which of the op's calls is the first that is wrong. */
  readonly call: number;
  /** Where, from 0 to 1. */
  readonly place: number;
}

/** A GPU with a fault, and how often it has computed wrongly. */
function faulty(gpu: Backend, { kind, op, call, place }: Fault) {
  const seen = { calls: 0, wrong: 0 };
  const [output] = Object.keys(op.outputs);
  const backend = afterEach(gpu, (of, tensors) => {
    if (of !== op) return;
    const at = seen.calls++;
    if (at < call || (kind === "a word once" && at > call)) return;
    seen.wrong++;
    const tensor = tensors[output!]!;
    if (kind === "all words from a call on") flip(gpu, tensor);
    else flip(gpu, tensor, { first: Math.floor(place * wordsOf(tensor)), count: 1 });
  });
  return { backend: withSpotChecks(backend, ALL), seen };
}

/** How often each op that is checked is called by a run. */
async function callsOf(gpu: Backend, work: Omit<Work, "backend">) {
  const counts = new Map<Op, number>();
  const counting = afterEach(gpu, (op) => {
    if (op.sampling) counts.set(op, (counts.get(op) ?? 0) + 1);
  });
  const backend = withSpotChecks(counting, ALL);
  const report = await attempt({ ...work, backend });
  assert.ok(backend.checks > 100, `${backend.checks} calls were checked`);
  return { counts: [...counts], report };
}

function assertWrong(error: unknown): void {
  assert.ok(error instanceof DeviceError, String(error));
  assert.equal(error.kind, "wrong");
  assert.match(error.message, /^The GPU ".*" computes wrongly: \w+ gave \w+\[[\d, ]+\] = /);
}

/** The GPU computes wrongly. */
export const G3: Suite = {
  id: "G3",
  title: "a GPU whose results are wrong",
  share: 3,
  absent: ABSENT_GPU,
  async open(seed) {
    await using undo = new AsyncDisposableStack();
    const { gpu, calibrated, out } = await gpuWork(undo);
    const { counts, report } = await callsOf(gpu, { ...calibrated, out });
    const expected = await outcomeOf(out, report);
    const next = randoms(seed);
    const draw = (below: number) => Math.min(below - 1, Math.floor((next() + 1) / 2 * below));
    const faults = Array.from({ length: CASES }, (_, i): Fault => {
      const [op, calls] = counts[draw(counts.length)]!;
      // What is wrong from the last calls on may come after the last that is checked.
      return { kind: KINDS[i % 3]!, op, call: draw(Math.ceil(calls / 2)), place: draw(1e6) / 1e6 };
    });
    const kept = undo.move();
    return {
      count: CASES,
      async run(index) {
        await using place = await folder();
        const fault = faults[index]!;
        const work = { ...calibrated, out: `${await Deno.realPath(place.path)}/out` };
        const { backend, seen } = faulty(gpu, fault);
        const single = fault.kind !== "all words from a call on";
        let [became, unseen] = [`${fault.kind}: found`, false];
        try {
          const report = await attempt({ ...work, backend });
          const same = isDeepStrictEqual(await outcomeOf(work.out, report), expected);
          assert.ok(single, `${fault.op.name} was not found`);
          assert.ok(seen.wrong > 0);
          return `${fault.kind}: not found${same ? ", and nothing came of it" : ""}`;
        } catch (error) {
          // What is infinite by a call that is not checked is taken for the checkpoint's.
          unseen = error instanceof CheckpointError;
          if (unseen) became = `${fault.kind}: not finite`;
          else assertWrong(error);
        }
        const sound = { ...work, backend: withSpotChecks(gpu, ALL) };
        try {
          const went = await outcomeOf(work.out, await attempt(sound));
          if (!unseen) assert.deepEqual(went, expected);
          if (isDeepStrictEqual(went, expected)) return became;
        } catch (error) {
          // What was not found and is not finite was saved for the units to come.
          if (!(unseen && error instanceof CheckpointError)) throw error;
        }
        const again = await attempt(sound, { restart: true, overwrite: true });
        assert.deepEqual(await outcomeOf(work.out, again), expected);
        return `${became} after a save`;
      },
      [Symbol.asyncDispose]: () => kept.disposeAsync(),
    };
  },
};
