/**
 * Several outputs of one read: the bytes of each are those of the same recipe run alone, every
 * tensor is read once, and a run that was stopped goes on.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { Backend } from "../src/backend.ts";
import { openWasm } from "../src/backends/wasm/mod.ts";
import type { CalibrationInput } from "../src/calibration/input.ts";
import { RequestError, UnsupportedError } from "../src/errors.ts";
import type { EvaluationInput } from "../src/forward/streams.ts";
import { planOutputs } from "../src/outputs.ts";
import { requestOf } from "../src/plan/planned.ts";
import { plan } from "../src/plan.ts";
import { type NamedRecipe, parseOutputs } from "../src/recipe_file.ts";
import type { Event } from "../src/report.ts";
import type { RunReport } from "../src/report/run_report.ts";
import { run, runOutputs } from "../src/run.ts";
import type { Sink } from "../src/sink.ts";
import { openFolderSink } from "../src/sinks/folder.ts";
import { passingStageOf, stageOf } from "../src/sinks/stage.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { SAMPLE_MODEL } from "../src/sources/sample.ts";
import type { Rows, TensorSource } from "../src/source.ts";
import { byteLength, sum } from "../src/tensor.ts";
import { bytesOf, folder, tinyWindows } from "./run_given.ts";
import { Stop } from "./resume_given.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

const WINDOWS = { windows: tinyWindows(3, 12), stateBudget: 1e9 };

/** What is to be made of what. */
interface Work {
  readonly source: TensorSource;
  readonly backend: Backend;
  readonly recipes: readonly NamedRecipe[];
  readonly calibration?: CalibrationInput;
  readonly evaluation?: EvaluationInput;
}

/** Outputs as a recipe of YAML has them. */
function outputsOf(yaml: string): NamedRecipe[] {
  return parseOutputs(yaml, "recipe.yaml")!;
}

function requests({ calibration, evaluation }: Work) {
  const request = (input: EvaluationInput) =>
    requestOf({ ...input, seqLen: input.windows[0]!.length });
  return {
    ...(calibration ? { calibration: request(calibration) } : {}),
    ...(evaluation ? { evaluation: request(evaluation) } : {}),
  };
}

function inputs({ calibration, evaluation }: Work) {
  return { ...(calibration ? { calibration } : {}), ...(evaluation ? { evaluation } : {}) };
}

/** All outputs by one run into folders of their names in `into`. */
async function together(work: Work, into: string, { resume = false, change, report }: {
  readonly resume?: boolean;
  readonly change?: (sink: Sink, name: string) => Sink;
  readonly report?: (event: Event) => void;
} = {}): Promise<RunReport[]> {
  const { source, backend, recipes } = work;
  const plans = planOutputs(recipes, source, { device: backend, ...requests(work), resume });
  await using sinks = new AsyncDisposableStack();
  const outputs = [];
  for (const [i, { name }] of recipes.entries()) {
    const sink = sinks.use(await openFolderSink(join(into, name), { resume }));
    outputs.push({ plan: plans[i]!, sink: change?.(sink, name) ?? sink });
  }
  return await runOutputs(outputs, {
    source,
    backend,
    saveShare: Infinity,
    metrics: true,
    ...(report ? { report } : {}),
    ...inputs(work),
  });
}

/** Each output by a run of its own. */
async function alone(work: Work, into: string): Promise<RunReport[]> {
  const { source, backend, recipes } = work;
  return await Array.fromAsync(recipes, async ({ name, recipe }) => {
    const planned = plan(recipe, source, { device: backend, ...requests(work) });
    await using sink = await openFolderSink(join(into, name));
    return await run(planned, { source, backend, sink, metrics: true, ...inputs(work) });
  });
}

async function sameBytes(recipes: readonly NamedRecipe[], one: string, other: string) {
  for (const { name } of recipes) {
    assert.deepEqual(await bytesOf(join(one, name)), await bytesOf(join(other, name)), name);
  }
}

const THREE = outputsOf(`
method: rtn
outputs:
  - { output: nf4, scheme: NF4 }
  - { output: w4, scheme: W4A16, method: gptq, group_size: 32 }
  - { output: w8a8, scheme: W8A8 }
`);

const MIXES: Readonly<Record<string, readonly NamedRecipe[]>> = {
  "without data and with": THREE,
  "all without data": outputsOf(`
outputs:
  - { output: nf4, scheme: NF4 }
  - { output: w8, scheme: W8A16, method: rtn, format: gptq }
  - { output: fp8, scheme: FP8_DYNAMIC, ignore: ["*down_proj*"] }
  - { output: head, scheme: W8A8, method: rtn, rules: [{ match: lm_head, scheme: W8A8, method: rtn }] }
`),
  "all calibrated": outputsOf(`
group_size: 32
outputs:
  - { output: gptq, scheme: W4A16, method: gptq }
  - { output: awq, scheme: W4A16_ASYM, method: awq, calibrate_on: float }
  - { output: both, scheme: W3A16, method: awq+gptq, calibrate_on: float }
  - { output: static, scheme: W8A8, method: smoothquant+gptq, activations: static, calibrate_on: float, group_size: -1 }
  - { output: smooth, scheme: W8A8, method: smoothquant, calibrate_on: float, group_size: -1 }
  - { output: tuned, scheme: W4A16, method: gptq+tune, iterations: 3 }
`),
};

for (const [name, recipes] of Object.entries(MIXES)) {
  for (const measured of [false, true]) {
    Deno.test(`runOutputs() writes the bytes of runs alone: ${name}${measured ? ", measured" : ""}`, async () => {
      await using into = await folder();
      const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
      await using source = await openCheckpoint(model);
      await using backend = await openWasm({ threads: 1 });
      const work = {
        source,
        backend,
        recipes,
        calibration: WINDOWS,
        ...(measured ? { evaluation: WINDOWS } : {}),
      };
      const one = await alone(work, join(into.path, "alone"));
      const all = await together(work, join(into.path, "together"));
      await sameBytes(recipes, join(into.path, "alone"), join(into.path, "together"));
      for (const [i, { tensors, scores, streamErrors, warnings }] of all.entries()) {
        const before = one[i]!;
        assert.deepEqual(new Set(tensors), new Set(before.tensors));
        assert.deepEqual(scores, before.scores);
        assert.deepEqual(streamErrors, before.streamErrors);
        assert.deepEqual(warnings, before.warnings);
        assert.equal(Object.keys(scores).length > 0, measured);
      }
      await Deno.remove(model, { recursive: true });
    });
  }
}

/** A source whose reads are counted, in bytes by tensor. */
function counting(source: TensorSource): { source: TensorSource; bytes: Map<string, number> } {
  const bytes = new Map<string, number>();
  const counted: TensorSource = {
    ...source,
    tensors: source.tensors,
    async read<B extends ArrayBufferLike>(name: string, rows?: Rows, into?: Uint8Array<B>) {
      const found = await source.read(name, rows, into);
      bytes.set(name, (bytes.get(name) ?? 0) + found.length);
      return found;
    },
  };
  return { source: counted, bytes };
}

for (const [name, recipes] of Object.entries(MIXES)) {
  for (const measured of [false, true]) {
    Deno.test(`runOutputs() reads no byte more often than one of its outputs alone: ${name}${measured ? ", measured" : ""}`, async () => {
      await using into = await folder();
      const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
      await using opened = await openCheckpoint(model);
      await using backend = await openWasm({ threads: 1 });
      const given = {
        backend,
        calibration: WINDOWS,
        ...(measured ? { evaluation: WINDOWS } : {}),
      };
      const most = new Map<string, number>();
      for (const recipe of recipes) {
        const { source, bytes } = counting(opened);
        await alone({ ...given, source, recipes: [recipe] }, join(into.path, "alone"));
        for (const [name, read] of bytes) most.set(name, Math.max(read, most.get(name) ?? 0));
      }
      const { source, bytes } = counting(opened);
      await together({ ...given, source, recipes }, join(into.path, "together"));
      for (const [name, read] of bytes) assert.ok(read <= most.get(name)!, `${name}: ${read}`);
      assert.deepEqual(new Set(bytes.keys()), new Set(opened.tensors.keys()));
      // Without windows each byte is read once.
      const walks = measured || name !== "all without data";
      for (const [name, info] of walks ? [] : opened.tensors) {
        assert.equal(bytes.get(name), byteLength(info));
      }
      await Deno.remove(model, { recursive: true });
    });
  }
}

for (const [name, recipes] of Object.entries(MIXES)) {
  Deno.test(`outputs whose run is stopped after each save of each come to the same: ${name}`, async () => {
    await using into = await folder();
    const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
    await using source = await openCheckpoint(model);
    await using backend = await openWasm({ threads: 1 });
    const work = { source, backend, recipes, calibration: WINDOWS, evaluation: WINDOWS };
    const [once, often] = [join(into.path, "once"), join(into.path, "often")];
    const expected = await together(work, once);
    // One save of one output at a time: the others are behind it, and it waits for them.
    let stops = 0;
    let reports: RunReport[] | undefined;
    while (!reports) {
      let left = 1;
      const change = (sink: Sink): Sink => ({
        ...sink,
        resumption: {
          ...sink.resumption!,
          records: sink.resumption!.records,
          async keepCarry(file) {
            await sink.resumption!.keepCarry(file);
            if (--left === 0) throw new Stop();
          },
        },
      });
      try {
        reports = await together(work, often, { resume: true, change });
      } catch (error) {
        if (!(error instanceof Stop)) throw error;
        stops++;
      }
    }
    // Embedding, two blocks, and what stands behind them, of each.
    assert.equal(stops, 4 * recipes.length);
    await sameBytes(recipes, once, often);
    for (const [i, { tensors, scores, streamErrors }] of reports.entries()) {
      assert.deepEqual(tensors, expected[i]!.tensors);
      assert.deepEqual(scores, expected[i]!.scores);
      assert.deepEqual(streamErrors, expected[i]!.streamErrors);
    }
    await Deno.remove(model, { recursive: true });
  });
}

Deno.test("an output that was begun with others goes on alone, and the others without it", async () => {
  await using into = await folder();
  const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
  await using source = await openCheckpoint(model);
  await using backend = await openWasm({ threads: 1 });
  const work = { source, backend, recipes: THREE, calibration: WINDOWS, evaluation: WINDOWS };
  const [once, often] = [join(into.path, "once"), join(into.path, "often")];
  await together(work, once);
  const change = (sink: Sink, name: string): Sink => ({
    ...sink,
    resumption: {
      ...sink.resumption!,
      records: sink.resumption!.records,
      async keepCarry(file) {
        await sink.resumption!.keepCarry(file);
        if (name === "w8a8") throw new Stop();
      },
    },
  });
  await assert.rejects(together(work, often, { resume: true, change }), Stop);
  const units: number[] = [];
  const report = (event: Event) => event.type === "resumed" && units.push(event.units);
  for (const recipes of [THREE.slice(1, 2), [THREE[2]!, THREE[0]!]]) {
    await together({ ...work, recipes }, often, { resume: true, report });
  }
  assert.deepEqual(units, [1, 1]);
  await sameBytes(THREE, once, often);
  await Deno.remove(model, { recursive: true });
});

Deno.test("outputs calibrated on the original's states are seen by one walk", async () => {
  await using into = await folder();
  const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
  await using source = await openCheckpoint(model);
  await using backend = await openWasm({ threads: 1 });
  const recipes = outputsOf(`
group_size: 32
calibrate_on: float
outputs:
  - { output: gptq, scheme: W4A16, method: gptq }
  - { output: awq, scheme: W4A16_ASYM, method: awq }
  - { output: both, scheme: W3A16, method: awq+gptq }
`);
  const work = { source, backend, recipes, calibration: WINDOWS };
  const steps = async (recipes: readonly NamedRecipe[], name: string) => {
    let total = 0;
    const report = (event: Event) => event.type === "advanced" && (total = event.done);
    await together({ ...work, recipes }, join(into.path, name), { report });
    return total;
  };
  const one = await steps(recipes.slice(0, 1), "one");
  assert.ok(one > 0);
  assert.equal(await steps(recipes, "together"), one);
  await alone(work, join(into.path, "alone"));
  await sameBytes(recipes, join(into.path, "alone"), join(into.path, "together"));
  await Deno.remove(model, { recursive: true });
});

Deno.test("what one output refuses, all refuse, and the sentence says which", async () => {
  await using source = await openCheckpoint(SAMPLE_MODEL);
  await using backend = await openWasm({ threads: 1 });
  const recipes = outputsOf(`
outputs:
  - { output: good, scheme: NF4 }
  - { output: bad, scheme: W4A16, method: rtn, group_size: 7 }
`);
  assert.throws(
    () => planOutputs(recipes, source, { device: backend }),
    (error: unknown) =>
      error instanceof UnsupportedError && /^Cannot make the output "bad"\. /.test(error.message),
  );
});

Deno.test("the memory of outputs is that of one and what the others hold beside it, within the budget", async () => {
  await using source = await openCheckpoint(SAMPLE_MODEL);
  await using backend = await openWasm({ threads: 1 });
  const walk = { seqLen: 256, windows: 512, stateBudget: 1e10 };
  const given = { device: backend, evaluation: walk, calibration: walk };
  const one = THREE.map(({ recipe }) => plan(recipe, source, given).memory);
  const all = planOutputs(THREE, source, given).map(({ memory }) => memory);
  const states = walk.seqLen * walk.windows * 4 * Number(source.config.hidden_size);
  for (const [i, { peak, states: held }] of all.entries()) {
    // At least a stream of each of the others.
    assert.ok(peak >= one[i]!.peak + 2 * states && held >= one[i]!.states + 2 * states);
    assert.ok(held <= sum(one, ({ states }) => states));
  }
  const ram = Math.max(...one.map(({ peak }) => peak));
  const kept = planOutputs(THREE, source, { ...given, budgets: { ram } });
  assert.ok(kept.every(({ memory }) => memory.peak <= ram));
  assert.ok(kept.some(({ spilledBytes }) => spilledBytes > 0));
  assert.throws(
    () => planOutputs(THREE, source, { ...given, budgets: { ram: 1e8 } }),
    /^UnsupportedError: Cannot make the output "nf4"\. Cannot keep to `budgets\.ram`/,
  );
});

Deno.test("parseOutputs() gives each output what is said for all, and names what says no folder", () => {
  const found = outputsOf(`
group_size: 64
ignore: ["*down*"]
outputs:
  - { scheme: W4A16 }
  - { scheme: W4A16, method: [awq, gptq], group_size: 32, ignore: [] }
  - { output: eight, scheme: LLM_INT8 }
`);
  assert.deepEqual(found.map(({ name }) => name), ["w4a16", "w4a16-awq+gptq", "eight"]);
  const [one, two] = found.map(({ recipe }) => recipe);
  assert.deepEqual([one!.ignore, two!.ignore], [["*down*"], []]);
  assert.deepEqual(one!.rules[0]!.options, { "group-size": 64 });
  assert.deepEqual(two!.rules[0]!.options, { "group-size": 32 });
  assert.equal(parseOutputs("scheme: NF4", "recipe.yaml"), undefined);
});

for (
  const [yaml, message] of [
    ["outputs: []", /^Cannot read the recipe recipe\.yaml: "outputs" is an empty list\./],
    ["outputs: { scheme: NF4 }", /"outputs" must be a list of outputs/],
    ["outputs: [NF4]", /output 1 of the recipe recipe\.yaml: it must be an object/],
    ["outputs: [{ output: 3 }]", /"output" must be the folder that it goes to/],
    ["outputs: [{ schema: NF4 }]", /output 1 of the recipe recipe\.yaml: it has no key "schema"/],
    ["outputs: [{ scheme: NF4 }, { scheme: NF4 }]", /outputs 1 and 2 both go to "nf4"/],
    ["outputs: [{ outputs: [] }]", /it has no key "outputs"/],
    [
      "{ seq_len: 8, outputs: [{ scheme: NF4 }] }",
      /^Cannot read the recipe recipe\.yaml: it has no key "seq_len"\. Keys are .*, outputs\.$/,
    ],
    [
      "{ method: best, outputs: [{ method: rtn }] }",
      /^Cannot read the recipe recipe\.yaml\. Cannot use .*best/,
    ],
    [
      '{ ignore: ["re:("], outputs: [{ scheme: NF4 }] }',
      /^Cannot read the recipe recipe\.yaml\. Cannot use the pattern "re:\("/,
    ],
    [
      "outputs: [{ scheme: NF4 }, { scheme: NFF4 }]",
      /^Cannot read output 2 of the recipe recipe\.yaml\. Cannot use scheme "NFF4": /,
    ],
    [
      "outputs: [{ rules: [{ match: a, scheme: NFF4 }] }]",
      /^Cannot read rule 1 of output 1 of the recipe recipe\.yaml\. Cannot use scheme "NFF4": /,
    ],
    [
      "outputs: [{ calibrate_on: float, propagate: true }]",
      /^Cannot read output 1 of the recipe recipe\.yaml\. Cannot use `propagate` with/,
    ],
    [
      'outputs: [{ output: "x\\0b" }]',
      /^Cannot read output 1 of .*: its "output" is "x\\u0000b", which holds a control character\./,
    ],
    ['outputs: [{ output: "\\ud800" }]', /which holds half a surrogate pair/],
  ] as const
) {
  Deno.test(`parseOutputs() refuses ${yaml}`, () => {
    assert.throws(
      () => outputsOf(yaml),
      (error: unknown) => error instanceof RequestError && message.test(error.message),
    );
  });
}

Deno.test("parseOutputs() refuses names that stages have, in any letters", () => {
  const [stage, passing] = [stageOf("a"), passingStageOf("a")];
  for (const name of [stage, passing, `${stage}/b`, stage.toUpperCase()]) {
    assert.throws(
      () => outputsOf(`outputs: [{ output: ${name}, scheme: NF4 }]`),
      /^RequestError: Cannot read output 1 .*, where a stopped run would leave its files\./,
    );
  }
  assert.equal(outputsOf(`outputs: [{ output: ${stage}ly, scheme: NF4 }]`)[0]!.name, `${stage}ly`);
});
