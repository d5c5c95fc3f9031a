/**
 * A run that was stopped, wherever, goes on to the same bytes and the same numbers as one that was
 * not; what is not the same run, or not there any more as it was written, is refused.
 */
import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { HubError, RequestError, SpaceError } from "../src/errors.ts";
import { type Disk, disk } from "../src/io/disk.ts";
import { OWNER_FILE } from "../src/io/owner.ts";
import { STREAM_ERROR_BYTES } from "../src/limits.ts";
import type { TensorTask } from "../src/plan/tasks.ts";
import { arrange } from "../src/plan/units.ts";
import { plan } from "../src/plan.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import type { Event } from "../src/report.ts";
import { runStatus } from "../src/run/status.ts";
import type { Resumption } from "../src/sink.ts";
import type { Unchecked } from "../src/source.ts";
import { openFolderSink } from "../src/sinks/folder.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import {
  attempt,
  interrupt,
  interruptEverywhere,
  outcomeOf,
  Stop,
  type Work,
} from "./resume_given.ts";
import { onEveryBackend } from "./present.ts";
import { folder, tinyWindows, withOwn } from "./run_given.ts";
import { livelyNorms, makeCheckpoint, randoms, TINY_CONFIG, tinyTensors } from "./tiny.ts";

const EVALUATION = { windows: tinyWindows(3, 12), stateBudget: 1e7 };
const CALIBRATION = { windows: tinyWindows(5, 40), stateBudget: 1e7 };

/** A model, and a folder for what is made of it. */
async function given(): Promise<
  AsyncDisposable & { readonly model: string; readonly path: string }
> {
  const { path, [Symbol.asyncDispose]: remove } = await folder();
  const model = await makeCheckpoint(tinyTensors("bf16"), {
    config: TINY_CONFIG,
    change: livelyNorms("bf16"),
  });
  return {
    model,
    path: await Deno.realPath(path),
    async [Symbol.asyncDispose]() {
      await remove();
      await Deno.remove(model, { recursive: true });
    },
  };
}

const WORKS: Readonly<Record<string, Omit<Work, "model" | "backend" | "out">>> = {
  "rtn": { options: { scheme: "NF4" } },
  "rtn, measured": { options: { scheme: "NF4" }, evaluation: EVALUATION },
  "gptq that repairs errors, measured": {
    options: { scheme: "W4A16", "group-size": 32, method: "gptq" },
    evaluation: EVALUATION,
    calibration: CALIBRATION,
  },
  "awq+gptq on the original's states, in several shards": {
    options: {
      scheme: "W3A16",
      "group-size": 32,
      method: "awq+gptq",
      "calibrate-on": "float",
      "max-shard-size": "20kB",
    },
    evaluation: EVALUATION,
    calibration: CALIBRATION,
  },
  "trained, measured": {
    options: { scheme: "W4A16_ASYM", "group-size": 32, method: "awq+gptq+tune", iterations: 6 },
    evaluation: EVALUATION,
    calibration: CALIBRATION,
  },
  "smoothquant+gptq with static activations, measured": {
    options: { scheme: "W8A8", method: "smoothquant+gptq", activations: "static" },
    evaluation: EVALUATION,
    calibration: CALIBRATION,
  },
};

for (const [title, work] of Object.entries(WORKS)) {
  Deno.test(`a run that is stopped after each unit in turn comes to the same: ${title}`, async () => {
    await using at = await given();
    await using backend = await openWasm({ threads: 2 });
    const all = { ...work, model: at.model, backend };
    const [whole, often] = [`${at.path}/whole`, `${at.path}/often`];
    const expected = await outcomeOf(
      whole,
      await attempt({ ...all, out: whole }, { resume: false }),
    );
    const { report, stops } = await interruptEverywhere({ ...all, out: often });
    // The embedding, two blocks, and what stands behind them.
    assert.equal(stops, 4);
    assert.deepEqual(await outcomeOf(often, report), expected);
    assert.deepEqual([...Deno.readDirSync(at.path)].map(({ name }) => name).sort(), [
      "often",
      "whole",
    ]);
  });
}

onEveryBackend(
  "a run that is stopped after each unit in turn comes to the same",
  async (backend) => {
    await using at = await given();
    const all = { ...WORKS["gptq that repairs errors, measured"]!, model: at.model, backend };
    const [whole, often] = [`${at.path}/whole`, `${at.path}/often`];
    const expected = await outcomeOf(
      whole,
      await attempt({ ...all, out: whole }, { resume: false }),
    );
    const { report } = await interruptEverywhere({ ...all, out: often });
    assert.deepEqual(await outcomeOf(often, report), expected);
  },
);

Deno.test("hidden states on disk are carried as they are there: f32 where they are measured, bf16 where calibrated on", async () => {
  await using at = await given();
  await using spill = await folder();
  await using backend = await openWasm({ threads: 2 });
  const store = { disk, folder: spill.path };
  // Some of the windows fit.
  const work = {
    ...WORKS["gptq that repairs errors, measured"]!,
    evaluation: { ...EVALUATION, stateBudget: 12_000, stackTokens: 12, spill: store },
    calibration: { ...CALIBRATION, stateBudget: 60_000, stackTokens: 40, spill: store },
    model: at.model,
    backend,
  };
  const [whole, often] = [`${at.path}/whole`, `${at.path}/often`];
  const expected = await outcomeOf(
    whole,
    await attempt({ ...work, out: whole }, { resume: false }),
  );
  const { report, stops } = await interruptEverywhere({ ...work, out: often });
  assert.equal(stops, 4);
  assert.deepEqual(await outcomeOf(often, report), expected);
  // All of it in memory is another run: what was in bf16 would not be any more.
  const out = `${at.path}/other`;
  await interrupt({ ...work, out }, 2);
  await assert.rejects(
    attempt({ ...work, out, calibration: { ...CALIBRATION, stackTokens: 40 } }),
    /another run: calibration\.tokens_on_disk was \d+ and is 0\. Repeat its command/,
  );
});

/** A run of which units are saved, and what would come of it. */
async function begun(saves = 2): Promise<
  AsyncDisposable & { readonly work: Work; readonly stage: string; readonly expected: object }
> {
  await using undo = new AsyncDisposableStack();
  const at = undo.use(await given());
  const backend = undo.use(await openWasm({ threads: 2 }));
  const work = {
    ...WORKS["gptq that repairs errors, measured"]!,
    model: at.model,
    backend,
    out: `${at.path}/out`,
  };
  const whole = `${at.path}/whole`;
  const expected = await outcomeOf(
    whole,
    await attempt({ ...work, out: whole }, { resume: false }),
  );
  await interrupt(work, saves);
  const kept = undo.move();
  return {
    work,
    expected,
    stage: `${work.out}.sluice-partial`,
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

/** See that a run goes on, after so many units, to what it should come to. */
async function goesOn({ work, expected }: { work: Work; expected: object }, after: number) {
  const resumed: Event[] = [];
  const report = await attempt(work, {
    report: (event) => event.type === "resumed" && resumed.push(event),
  });
  assert.deepEqual(resumed.map((event) => event.type === "resumed" && event.units), [after]);
  assert.deepEqual(await outcomeOf(work.out, report), expected);
}

Deno.test("a run that is not the same is refused by what changed, touches nothing, and `restart` begins anew", async () => {
  await using run = await begun();
  const { work, expected } = run;
  const changed: readonly (readonly [Partial<Work>, RegExp])[] = [
    [
      { options: { ...work.options, "group-size": 64 } },
      /: recipe\.group_size was 32 and is 64\. Repeat its command, or begin anew with `restart`\.$/,
    ],
    [
      { calibration: { ...CALIBRATION, windows: tinyWindows(4, 40) } },
      /: calibration\.windows was 5 and is 4; /,
    ],
    [
      { evaluation: { ...EVALUATION, windows: tinyWindows(4, 12).slice(1) } },
      /: evaluation\.sha256 is another\. Repeat/,
    ],
  ];
  const refused = async (change: Partial<Work>, says: RegExp) => {
    await assert.rejects(
      attempt({ ...work, ...change }),
      (error) => error instanceof RequestError && says.test(error.message),
    );
  };
  for (const [change, says] of changed) await refused(change, says);
  // Threads share the work out and change no number; another device does.
  const called = (description: string) => ({ backend: withOwn(work.backend, { description }) });
  await refused(called("4 threads of thought"), /: device was ".*" and is "wasm, thought"\. /);
  // Bytes of the same headers in the same place.
  const weights = join(work.model, "model.safetensors");
  const { mtime } = await Deno.stat(weights);
  await Deno.utime(weights, new Date(), new Date(mtime!.getTime() + 5000));
  await refused({}, /: source\.changed\.model\.safetensors was \d+ and is \d+\. /);
  await Deno.utime(weights, new Date(), mtime!);
  const { description } = work.backend;
  await interrupt({ ...work, ...called(description.replace("2 threads", "7 threads")) }, 1);
  await goesOn(run, 3);
  await Deno.remove(work.out, { recursive: true });
  await interrupt(work, 3);
  const events: string[] = [];
  const report = await attempt(work, { restart: true, report: ({ type }) => events.push(type) });
  assert.ok(!events.includes("resumed"));
  assert.deepEqual(await outcomeOf(work.out, report), expected);
});

Deno.test("a line of the journal that was not written whole is as if it had never been, wherever it was cut", async () => {
  await using run = await begun(1);
  const { work, stage } = run;
  const path = join(stage, "journal.jsonl");
  const before = (await Deno.stat(path)).size;
  // As it is before the carry of the unit before is removed.
  const keepCarry = () => Promise.reject(new Stop());
  await assert.rejects(attempt(work, { change: () => ({ keepCarry }) }), Stop);
  const whole = await Deno.readFile(path);
  assert.equal([...Deno.readDirSync(join(stage, "carry"))].length, 2);
  const { length } = whole;
  const damaged = whole.with(length - 20, whole[length - 20]! ^ 1);
  for (
    const text of [whole.subarray(0, before + 1), whole.subarray(0, length - 1), damaged].concat(
      Array.from(
        { length: 5 },
        (_, i) => whole.subarray(0, before + Math.floor((length - before) * (i + 1) / 7)),
      ),
    )
  ) {
    await Deno.writeFile(path, text);
    const status = await runStatus(work.out);
    assert.deepEqual([status.units, status.state], [1, "stopped"]);
  }
  await goesOn(run, 1);
});

Deno.test("a run whose saves find no room goes on without them, says so once, and leaves nothing of them", async () => {
  await using backend = await openWasm({ threads: 1 });
  await using at = await given();
  const work = WORKS["gptq that repairs errors, measured"]!;
  const whole = { ...work, model: at.model, backend, out: `${at.path}/whole` };
  const expected = await outcomeOf(whole.out, await attempt(whole));
  let refused = 0;
  const full: Disk = {
    ...disk,
    async create(path, size, options) {
      const writer = await disk.create(path, size, options);
      if (!path.endsWith(join("carry", "new"))) return writer;
      const refuse = () => {
        refused++;
        return Promise.reject(
          new SpaceError(`Cannot write "${path}": the disk is full.`, { path }),
        );
      };
      return {
        ...writer,
        write: refuse,
        [Symbol.asyncDispose]: () => writer[Symbol.asyncDispose](),
      };
    },
  };
  const told: string[] = [];
  const out = `${at.path}/made`;
  const report = await attempt({ ...whole, out }, {
    disk: full,
    report(event) {
      if (event.type === "warning") told.push(event.message);
      if (event.type === "advanced" && refused > 0) {
        assert.deepEqual([...Deno.readDirSync(join(`${out}.sluice-partial`, "carry"))], []);
      }
    },
  });
  assert.deepEqual(await outcomeOf(out, report), expected);
  assert.ok(refused > 1, "each save is tried");
  const said = told.filter((message) => /could not be saved: .*the disk is full/.test(message));
  assert.equal(said.length, 1);
});

Deno.test("a journal, files or a carry that were damaged are refused by a sentence", async () => {
  await using run = await begun();
  const { work, stage, expected } = run;
  const spoil = async (path: string, says: RegExp, change: (bytes: Uint8Array) => Uint8Array) => {
    const bytes = await Deno.readFile(path);
    await Deno.writeFile(path, change(bytes));
    await assert.rejects(
      attempt(work),
      (error) => error instanceof RequestError && says.test(error.message),
    );
    await Deno.writeFile(path, bytes);
  };
  const flip = (at: number) => (bytes: Uint8Array) => bytes.with(at, bytes.at(at)! ^ 1);
  const journal = join(stage, "journal.jsonl");
  await spoil(journal, /Cannot go on by ".*journal\.jsonl": its line 1 is damaged/, flip(200));
  const first = (await Deno.readTextFile(journal)).indexOf("\n");
  await spoil(journal, /: its line 2 is damaged/, flip(first + 200));
  const [carry] = [...Deno.readDirSync(join(stage, "carry"))];
  const lost =
    /Cannot go on with what ".*carry" holds: "[0-9a-f]{64}" (is not there|does not have)/;
  await spoil(join(stage, "carry", carry!.name), lost, flip(10));
  await spoil(join(stage, "carry", carry!.name), lost, (bytes) => bytes.subarray(1));
  const weights = join(stage, "new", "model.safetensors");
  const line = (await Deno.readTextFile(journal)).split("\n")[1]!;
  const { begin } = JSON.parse(line).record.units[0].pieces[0] as { begin: number };
  await spoil(
    weights,
    /its bytes \d+ to \d+ are not those that were written\. Begin anew/,
    flip(begin),
  );
  await spoil(weights, /"model\.safetensors" is not there as it was/, (bytes) => bytes.subarray(1));
  // What no finished unit wrote is written again, and so is the header.
  const { length } = await Deno.readFile(weights);
  assert.ok(length > 0);
  await Deno.writeFile(weights, flip(20)(await Deno.readFile(weights)));
  await goesOn(run, 2);
  assert.ok(expected);
});

Deno.test("what a stopped run was given and had not checked is checked by the run that goes on, and what was damaged is done anew", async () => {
  await using here = await given();
  await using backend = await openWasm({ threads: 1 });
  const unchecked = [{ file: "model.safetensors", begin: 0, end: 8, sha256: "0" }];
  const seen: Unchecked[] = [];
  let damaged = false;
  const work: Work = {
    ...WORKS["rtn, measured"]!,
    model: here.model,
    backend,
    out: `${here.path}/out`,
    open: async (model) => ({
      ...await openCheckpoint(model),
      unchecked: () => unchecked,
      recheck: (given) => void seen.push(...given),
      verified() {
        return damaged
          ? Promise.reject(new HubError("It was damaged.", { kind: "damaged" }))
          : Promise.resolve();
      },
    }),
  };
  const whole = { ...work, out: `${here.path}/whole` };
  const expected = await outcomeOf(whole.out, await attempt(whole));
  await interrupt(work, 2);
  assert.deepEqual(seen, []);
  damaged = true;
  await assert.rejects(attempt(work), /^HubError: It was damaged\.$/);
  assert.deepEqual(seen, unchecked);
  assert.equal((await runStatus(work.out)).units, 0);
  damaged = false;
  const report = await attempt(work, {
    report: ({ type }) => assert.notEqual(type, "resumed"),
  });
  assert.deepEqual(await outcomeOf(work.out, report), expected);
  assert.deepEqual(seen, unchecked);
});

Deno.test("two runs do not write one output: the second is refused, whether it goes on or begins", async () => {
  await using run = await begun();
  const { work, stage } = run;
  const busy = /Cannot write to ".*out.*": another run is writing it\. Wait until/;
  {
    await using first = await openFolderSink(work.out, { resume: true });
    assert.equal(first.resumption!.records.length, 3);
    await assert.rejects(openFolderSink(work.out, { resume: true }), busy);
    await assert.rejects(openFolderSink(work.out, { resume: true, restart: true }), busy);
    assert.equal((await runStatus(work.out)).state, "running");
  }
  await using begins = await openFolderSink(`${work.out}-2`, { resume: true });
  assert.deepEqual(begins.resumption!.records, []);
  await assert.rejects(openFolderSink(`${work.out}-2`, { resume: true }), busy);
  // Another machine's, on a shared disk.
  await Deno.writeTextFile(join(stage, OWNER_FILE), `{"host":"elsewhere"}`);
  const elsewhere: Disk = { ...disk, hostName: () => "here" };
  await assert.rejects(
    openFolderSink(work.out, { resume: true, disk: elsewhere }),
    /has left ".*out\.sluice-partial", and whether it still goes on cannot be told\. Remove/,
  );
  await Deno.writeTextFile(join(stage, OWNER_FILE), "{}");
  await goesOn(run, 2);
});

Deno.test("what another run can go on with is named and stays; what is worth nothing is removed", async () => {
  await using run = await begun();
  const { work, stage } = run;
  const told: string[] = [];
  const report = (event: Event) => void (event.type === "warning" && told.push(event.message));
  for (const [path, resume] of [[`${work.out}-2`, true], [work.out, false]] as const) {
    await using _ = await openFolderSink(path, { resume, report });
    assert.match(told.pop()!, /^A run that was stopped has left ".*out\.sluice-partial", and goes/);
  }
  // Not one unit was finished, and its process was killed.
  const journal = join(stage, "journal.jsonl");
  const [head] = (await Deno.readTextFile(journal)).split("\n");
  await Deno.writeTextFile(journal, `${head}\n`);
  await using sink = await openFolderSink(work.out, { resume: true, report });
  assert.match(told.pop()!, /^Removed ".*out\.sluice-partial" \(.*which a run that was killed/);
  assert.deepEqual(sink.resumption!.records, []);
  assert.deepEqual(told, []);
});

Deno.test({
  name:
    "what lies where an output would grow and is open to others, or a link, is not gone on with",
  ignore: Deno.build.os === "windows",
  async fn() {
    await using run = await begun();
    const { work, stage } = run;
    await Deno.chmod(stage, 0o750);
    await assert.rejects(attempt(work), /out\.sluice-partial" is open to others/);
    await Deno.chmod(stage, 0o700);
    await Deno.rename(stage, `${stage}-moved`);
    await Deno.symlink(`${stage}-moved`, stage);
    await assert.rejects(attempt(work), /out\.sluice-partial" is in the way\. Remove it\.$/);
    await Deno.remove(stage);
    await Deno.rename(`${stage}-moved`, stage);
    // A link in place of a file would have another file written.
    const weights = join(stage, "new", "model.safetensors");
    await Deno.rename(weights, `${weights}-moved`);
    await Deno.symlink(`${weights}-moved`, weights);
    await assert.rejects(attempt(work), /"model\.safetensors" is not there as it was written/);
  },
});

Deno.test("a run that had finished no unit leaves nothing", async () => {
  await using at = await given();
  await using backend = await openWasm({ threads: 1 });
  const work = { ...WORKS.rtn!, model: at.model, backend, out: `${at.path}/out` };
  const report = (event: Event) => {
    if (event.type === "start") throw new Stop();
  };
  await assert.rejects(attempt(work, { report }), Stop);
  assert.deepEqual([...Deno.readDirSync(at.path)], []);
});

/** A disk that is full after so many bytes. */
function fullAfter(bytes: number): Disk {
  let left = bytes;
  const limited = (path: string, writer: Awaited<ReturnType<Disk["create"]>>) => ({
    ...writer,
    async write(offset: number, piece: Uint8Array) {
      const fits = piece.subarray(0, Math.max(0, left));
      left -= piece.length;
      // As much as there is room for is there.
      await writer.write(offset, fits);
      if (fits.length < piece.length) {
        throw new SpaceError(`Cannot write "${path}": the disk is full.`, { path });
      }
    },
  });
  return {
    ...disk,
    create: async (path, size, options) => limited(path, await disk.create(path, size, options)),
    reopen: async (path, size) => limited(path, await disk.reopen(path, size)),
  };
}

Deno.test("a disk that is full, wherever, leaves a run that goes on once there is room", async () => {
  await using at = await given();
  await using backend = await openWasm({ threads: 2 });
  const all = { ...WORKS["gptq that repairs errors, measured"]!, model: at.model, backend };
  const whole = `${at.path}/whole`;
  const expected = await outcomeOf(whole, await attempt({ ...all, out: whole }, { resume: false }));
  const next = randoms(7);
  let [full, after] = [0, new Set<number>()];
  for (let series = 0; series < 6; series++) {
    const work = { ...all, out: `${at.path}/out-${series}` };
    for (let round = 0;; round++) {
      const report = (event: Event) => event.type === "resumed" && after.add(event.units);
      // Less than one save takes, or enough for a unit or two.
      const room = round < 8 ? Math.floor((next() + 1) * 120_000) : Infinity;
      try {
        const made = await attempt(work, { disk: fullAfter(room), report });
        assert.deepEqual(await outcomeOf(work.out, made), expected);
        break;
      } catch (error) {
        assert.ok(error instanceof SpaceError, String(error));
        full++;
      }
    }
  }
  assert.ok(full > 12 && after.size > 2, `full ${full} times, gone on after ${[...after]}`);
});

/** Stop a run when it tells of something. */
function abortOn(when: (event: Event) => boolean): {
  readonly signal: AbortSignal;
  readonly report: (event: Event) => void;
} {
  const stop = new AbortController();
  return {
    signal: stop.signal,
    report: (event) => {
      if (when(event)) stop.abort(new Stop());
    },
  };
}

Deno.test("a signal drops the unit at hand where all before it is saved or can be, and has it finished and saved else", async () => {
  await using at = await given();
  await using backend = await openWasm({ threads: 1 });
  const inBlock = (name: string) => (event: Event) =>
    event.type === "advanced" && event.block === name;
  const quantized = (event: Event) =>
    event.type === "quantized" && event.tensor.name.startsWith("model.layers.1.");
  const cases: readonly (readonly [
    work: string,
    saveShare: number,
    when: (event: Event) => boolean,
    kept: number,
    atOnce: boolean,
  ])[] = [
    // Hidden states have gone on: what they were after the embedding is not known any more.
    ["gptq that repairs errors, measured", 0, inBlock("model.layers.0"), 2, false],
    ["gptq that repairs errors, measured", Infinity, inBlock("model.layers.1"), 2, true],
    ["rtn", 0, quantized, 2, true],
    ["rtn, measured", 0, quantized, 3, false],
    // Windows at the head go nowhere.
    ["rtn, measured", 0, inBlock("head"), 4, true],
  ];
  for (const [i, [name, saveShare, when, kept, atOnce]] of cases.entries()) {
    const work = { ...WORKS[name]!, model: at.model, backend, out: `${at.path}/out-${i}` };
    const whole = `${work.out}-whole`;
    const uninterrupted = await attempt({ ...work, out: whole }, { resume: false });
    const halt = new AbortController();
    await assert.rejects(attempt(work, { saveShare, halt, ...abortOn(when) }), Stop);
    // A unit that is to be finished is read to its end.
    assert.equal(halt.signal.aborted, atOnce);
    await goesOn({ work, expected: await outcomeOf(whole, uninterrupted) }, kept);
  }
});

Deno.test("a run saves as seldom as it must to spend no more than its share on it", async () => {
  await using at = await given();
  await using backend = await openWasm({ threads: 1 });
  const work = { ...WORKS["rtn, measured"]!, model: at.model, backend, out: `${at.path}/out` };
  for (const [saveShare, expected] of [[0, 0], [Infinity, 4]] as const) {
    let saves = 0;
    const change = ({ append }: Resumption) => ({
      append(record: unknown) {
        saves++;
        return append(record);
      },
    });
    await attempt(work, { saveShare, change });
    // One record says of what run it is.
    assert.equal(saves - 1, expected);
    await Deno.remove(work.out, { recursive: true });
  }
});

Deno.test("status tells how far a run is, and what is done", async () => {
  await using run = await begun(3);
  const { work } = run;
  const { saved, ...status } = await runStatus(work.out);
  assert.match(saved!, /^\d{4}-\d\d-\d\dT/);
  const { size } = await Deno.stat(join(work.out + ".sluice-partial", "new", "model.safetensors"));
  assert.ok(status.writtenBytes! > size / 2 && status.writtenBytes! < size);
  const [carry] = [...Deno.readDirSync(join(work.out + ".sluice-partial", "carry"))];
  const { size: carryBytes } = await Deno.stat(
    join(work.out + ".sluice-partial", "carry", carry!.name),
  );
  assert.deepEqual({ ...status, writtenBytes: 0 }, {
    state: "stopped",
    units: 3,
    of: 4,
    unit: "model.layers.1",
    writtenBytes: 0,
    totalBytes: status.totalBytes,
    carryBytes,
    command: null,
    searching: false,
  });
  await goesOn(run, 3);
  assert.equal((await runStatus(work.out)).state, "finished");
  await assert.rejects(runStatus(work.model), /neither a checkpoint of Sluice nor a run/);
  await assert.rejects(
    runStatus(dirname(work.out)),
    /each output in it has a run of its own\. Give one of them: "[^"]*"/,
  );
});

Deno.test("the plan has as much room for the carry as it takes, twice", async () => {
  await using run = await begun(2);
  const { work } = run;
  await using source = await openCheckpoint(work.model);
  const request = { seqLen: 12, windows: 3, stateBudget: 1e7 };
  const given = {
    device: work.backend,
    evaluation: request,
    calibration: { seqLen: 40, windows: 5, stateBudget: 1e7 },
  };
  const recipe = recipeFromOptions(work.options);
  const { carryBytes } = plan(recipe, source, { ...given, resume: true });
  assert.equal(plan(recipe, source, given).carryBytes, 0);
  // Of one block of two it is told how far the streams are apart.
  const status = await runStatus(work.out);
  const later = 3 * 12 * STREAM_ERROR_BYTES;
  assert.equal(2 * (status.carryBytes! - 4 + later), carryBytes);
  const budgets = { disk: carryBytes - 1 };
  assert.throws(
    () => plan(recipe, source, { ...given, resume: true, budgets }),
    /of what it takes to go on after a stop must go to disk\. Give `budgets\.disk` .*, `resume` false/,
  );
  assert.equal(plan(recipe, source, { ...given, budgets }).carryBytes, 0);
});

Deno.test("what belongs to no block is cut into units of some 256 MB, between tensors", () => {
  const task = (i: number): TensorTask => {
    const source = { name: `w${i}`, dtype: "bf16", shape: [2 ** 13, 2 ** 13] } as const;
    return {
      kind: "copy",
      name: source.name,
      source,
      outputs: [source],
      reason: "",
      dtype: "bf16",
    };
  };
  const tasks = Array.from({ length: 5 }, (_, i) => task(i));
  const units = arrange(tasks, undefined);
  assert.deepEqual(units.map(({ tasks }) => tasks.length), [2, 2, 1]);
  assert.deepEqual(units.flatMap(({ tasks }) => tasks), tasks);
});
