/**
 * What a run measures beside its metrics: the error of outputs, losses told before, distributions,
 * phases; each against its definition in float64.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { Backend, Tensor } from "../src/backend.ts";
import { referenceBackend } from "../src/backends/reference.ts";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { CalibrationMeasure, weighScales } from "../src/calibration/output_error.ts";
import { CodeCounter, KEPT_BINS, reduceHistograms } from "../src/metrics/distribution.ts";
import { recognize } from "../src/formats/mod.ts";
import { floatsFrom } from "../src/number.ts";
import { type Observer, Statistics } from "../src/observer.ts";
import type { Gram } from "../src/linalg/panels.ts";
import { gram } from "../src/observers/gram.ts";
import { Trace } from "../src/trace.ts";
import { plan } from "../src/plan.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import type { RunReport } from "../src/report/run_report.ts";
import { run } from "../src/run.ts";
import type { IntScheme, Scheme } from "../src/scheme.ts";
import { schemeKind } from "../src/schemes/mod.ts";
import { openFolderSink } from "../src/sinks/folder.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { gaussian } from "./conformance/given.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

const WINDOWS = [0, 1, 2, 3, 4, 5, 6, 7].map((w) =>
  Uint32Array.from({ length: 32 }, (_, i) => (i * 7 + w * 31 + i * i * w) % 96)
);

/** A folder that is gone when the test ends. */
async function folder(): Promise<AsyncDisposable & { path: string }> {
  const path = await Deno.makeTempDir();
  return { path, [Symbol.asyncDispose]: () => Deno.remove(path, { recursive: true }) };
}

async function quantize(
  model: string,
  options: Record<string, unknown>,
  { backend, out, ...asked }: {
    backend: Backend;
    out: string;
    metrics?: boolean;
    distributions?: boolean;
  },
): Promise<RunReport> {
  await using source = await openCheckpoint(model);
  const input = { windows: WINDOWS, stateBudget: 1e9 };
  const request = { seqLen: 32, windows: WINDOWS.length, stateBudget: 1e9 };
  const work = plan(recipeFromOptions(options), source, { device: backend, calibration: request });
  await using sink = await openFolderSink(out);
  return await run(work, { source, backend, sink, calibration: input, ...asked });
}

function upload(values: Float32Array, shape: number[], backend: Backend): Tensor {
  const tensor = backend.alloc("f32", shape);
  backend.write(tensor, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  return tensor;
}

/** tr(A·H·Aᵀ) with H = Σ x·xᵀ, that is Σ over tokens of |A·x|². */
function outputSize(
  a: ArrayLike<number>,
  x: ArrayLike<number>,
  { rows, columns }: { rows: number; columns: number },
): number {
  let sum = 0;
  for (let t = 0; t < x.length / columns; t++) {
    for (let r = 0; r < rows; r++) {
      let y = 0;
      for (let c = 0; c < columns; c++) y += a[r * columns + c]! * x[t * columns + c]!;
      sum += y * y;
    }
  }
  return sum;
}

function close(got: number | undefined, want: number, tolerance: number): void {
  assert.ok(got !== undefined && Math.abs(got / want - 1) <= tolerance, `${got} is not ${want}`);
}

const INT4: IntScheme = {
  kind: "int",
  bits: 4,
  grid: "full",
  strategy: { kind: "group", size: 32 },
  scaleDType: "f32",
  activations: "none",
};

/** Statistics of inputs, f32[T, C]. */
async function observe(x: Float32Array<ArrayBuffer>, channels: number, backend: Backend) {
  const tokens = x.length / channels;
  const observation = gram.open({ channels, tokens, scope: backend.scope() });
  await observation.add(upload(x, [tokens, channels], backend));
  const results = new Map<Observer, unknown>([[gram, await observation.finish() as Gram]]);
  return new Statistics(results, { channels, tokens });
}

Deno.test("the output error of slices is tr(E·H·Eᵀ) / tr(W·H·Wᵀ) of the whole weight", async () => {
  const backend = referenceBackend();
  const [rows, columns, tokens] = [12, 64, 50];
  const [w, x] = [gaussian(rows * columns, 1), gaussian(tokens * columns, 2)];
  const statistics = await observe(x, columns, backend);
  using scope = backend.scope();
  const measure = new CalibrationMeasure({ scope, statistics });
  const errors = new Float64Array(w.length);
  for (const [from, to] of [[0, 5], [5, 12]] as const) {
    const part = w.slice(from * columns, to * columns);
    const original = () => upload(part, [to - from, columns], backend);
    const quantized = await schemeKind(INT4).quantize(INT4, original(), {
      scope,
      search: "minmax",
    });
    const values = () => schemeKind(INT4).dequantize(quantized, scope);
    const [bytes] = await backend.read(values());
    const rounded = new Float32Array(bytes!.buffer);
    part.forEach((value, i) => errors[from * columns + i] = rounded[i]! - value);
    await measure.add(quantized, { original, values, scope });
  }
  const facts = measure.finish(await backend.read(...measure.tensors));
  const shape = { rows, columns };
  close(facts.outputError, outputSize(errors, x, shape) / outputSize(w, x, shape), 1e-5);
  assert.deepEqual(Object.keys(facts), ["outputError"]);
});

for (
  const strategy of [
    { kind: "tensor" },
    { kind: "channel" },
    { kind: "group", size: 8 },
    { kind: "block", rows: 4, columns: 16 },
  ] as const
) {
  Deno.test(`scales per ${strategy.kind} are weighed row by row and column by column`, () => {
    const [rows, columns] = [6, 32];
    const tile = { tensor: [6, 32], channel: [1, 32], group: [1, 8], block: [4, 16] }[
      strategy.kind
    ] as [number, number];
    const [down, across] = [Math.ceil(rows / tile[0]), columns / tile[1]];
    const scale = gaussian(down * across, 3);
    const importance = gaussian(columns, 4).map((x) => x * x);
    let want = 0;
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) {
        const s = scale[Math.floor(r / tile[0]) * across + Math.floor(c / tile[1])]!;
        want += s * s * importance[c]!;
      }
    }
    const scheme: Scheme = { ...INT4, strategy };
    close(weighScales({ scheme, rows, columns }, scale, importance), want, 1e-9);
  });
}

for (const method of ["gptq", "awq", "awq+gptq"]) {
  Deno.test(`run() with ${method} tells the output error that the written checkpoint has`, async () => {
    await using into = await folder();
    const model = await makeCheckpoint(tinyTensors("f32"), { config: TINY_CONFIG });
    await using backend = await openWasm({ threads: 1 });
    const out = join(into.path, "out");
    const options = { scheme: "W4A16", "group-size": 32, method };
    const { tensors } = await quantize(model, options, { backend, out, metrics: true });
    await using before = await openCheckpoint(model);
    await using after = await openCheckpoint(out);
    const floats = async (source: typeof before, name: string) =>
      floatsFrom("f32", await source.read(name));
    // The first linears read the embedding through a norm, which can be said in a few lines.
    const norm = "model.layers.0.input_layernorm.weight";
    const [table, factors, divided] = [
      await floats(before, "model.embed_tokens.weight"),
      await floats(before, norm),
      await floats(after, norm),
    ];
    const x = new Float64Array(WINDOWS.length * 32 * 64);
    WINDOWS.flatMap((window) => [...window]).forEach((token, t) => {
      const row = table.subarray(token * 64, token * 64 + 64);
      const mean = row.reduce((sum, value) => sum + value * value, 0) / 64;
      row.forEach((value, c) => x[t * 64 + c] = value / Math.sqrt(mean + 1e-5) * factors[c]!);
    });
    const found = await recognize(after);
    // The rows of v may be divided once more, where it makes the input of the next step.
    for (const [name, rows] of [["q", 64], ["k", 32]] as const) {
      const weight = `model.layers.0.self_attn.${name}_proj.weight`;
      using scope = backend.scope();
      const quantized = await found!.format.unpack(
        found!.weights.get(weight)!,
        (tensor, rows) => after.read(tensor, rows),
        { scope },
      );
      const [bytes] = await backend.read(schemeKind(quantized.scheme).dequantize(quantized, scope));
      const values = new Float32Array(bytes!.buffer);
      const w = await floats(before, weight);
      const e = Float64Array.from(
        w,
        (value, i) => values[i]! * divided[i % 64]! / factors[i % 64]! - value,
      );
      const shape = { rows, columns: 64 };
      const want = outputSize(e, x, shape) / outputSize(w, x, shape);
      const { calibration: facts } = tensors.find((tensor) => tensor.name === weight)!;
      close(facts?.outputError, want, 1e-4);
      assert.ok(want > 1e-4 && want < 0.1, String(want));
      if (method === "awq") continue;
      // Loss and expectation are of one normalisation, and the bound holds.
      const { loss, expectedLoss, lossBound } = facts!;
      assert.ok(loss! / expectedLoss! > 0.6 && loss! / expectedLoss! < 1.5, `${weight} ${loss}`);
      close(lossBound, 3 * expectedLoss!, 1e-12);
      assert.ok(loss! < lossBound!);
    }
    await Deno.remove(model, { recursive: true });
  });
}

Deno.test("run() computes no output errors and keeps no distributions unless it is asked", async () => {
  await using into = await folder();
  const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
  await using backend = await openWasm({ threads: 1 });
  const options = { scheme: "W4A16", "group-size": 32 };
  const make = (name: string, asked: { metrics?: boolean; distributions?: boolean }) =>
    quantize(model, options, { backend, out: join(into.path, name), ...asked });
  const plain = await make("plain", {});
  assert.equal(plain.distributions.size, 0);
  for (const { metrics, calibration } of plain.tensors) {
    assert.deepEqual(metrics, {});
    assert.ok(calibration!.loss! > 0);
    assert.ok(!("outputError" in calibration!) && !("expectedLoss" in calibration!));
  }
  const measured = await make("measured", { metrics: true });
  assert.equal(measured.distributions.size, 0);
  const full = await make("full", { metrics: true, distributions: true });
  assert.deepEqual(full.tensors, measured.tensors);
  assert.deepEqual([...full.distributions.keys()], full.tensors.map(({ name }) => name));
  for (const { name, shape } of tinyTensors().filter(({ name }) => full.distributions.has(name))) {
    const { before, after, codes, low, high } = full.distributions.get(name)!;
    const elements = shape[0]! * shape[1]!;
    for (const counts of [before, after, codes!.counts]) {
      assert.equal(counts.reduce((a, b) => a + b, 0), elements, name);
    }
    assert.deepEqual([codes!.first, codes!.counts.length], [-8, 16]);
    assert.ok(before.length <= KEPT_BINS && before.length % 2 === 0 && low === -high);
  }
  // What was measured changes nothing that was written.
  const bytes = (name: string) => Deno.readFileSync(join(into.path, name, "model.safetensors"));
  assert.deepEqual(bytes("full"), bytes("plain"));
  await Deno.remove(model, { recursive: true });
});

Deno.test("histograms are cut to where values lie, and lose none", () => {
  const original = new Uint32Array(4096);
  const quantized = new Uint32Array(4096);
  for (let bin = 1900; bin <= 2200; bin++) original[bin] = bin;
  quantized[1999] = 7;
  quantized[2048] = 1;
  // 153 bins on the right of the middle: 5 to a bin makes the fewest that hold them.
  const { low, high, before, after } = reduceHistograms({ original, quantized, range: 2048 });
  assert.deepEqual([low, high, before.length, after.length], [-155, 155, 62, 62]);
  const total = (counts: Iterable<number>) => [...counts].reduce((a, b) => a + b, 0);
  assert.equal(total(before), total(original));
  assert.deepEqual(after.flatMap((n, bin) => n ? [[bin, n]] : []), [[21, 7], [31, 1]]);
  assert.equal(before.at(-1), 2198 + 2199 + 2200);
  const none = { original: new Uint32Array(4096), quantized: new Uint32Array(4096), range: 1 };
  assert.equal(reduceHistograms(none).before.length, 2);
});

Deno.test("codes are counted by value, two to a byte for codebooks, the filling of an odd end apart", async () => {
  const backend = referenceBackend();
  using scope = backend.scope();
  const counter = new CodeCounter(INT4);
  for (const values of [[-8, -8, 7], [0, -1, 7]]) {
    const codes = scope.alloc("i8", [1, 3]);
    backend.write(codes, new Uint8Array(Int8Array.from(values).buffer));
    const slice = { scheme: INT4, rows: 1, columns: 3, tensors: { codes } };
    counter.add((await counter.read(slice, backend))!, slice);
  }
  const { first, counts } = counter.counts()!;
  assert.equal(first, -8);
  assert.deepEqual(counts, [2, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 2]);

  const nf4: Scheme = { kind: "nf4", block: 64, doubleQuant: false };
  const nibbles = new CodeCounter(nf4);
  const codes = scope.alloc("u8", [2]);
  backend.write(codes, Uint8Array.of(0x3f, 0x37));
  const slice = { scheme: nf4, rows: 1, columns: 3, tensors: { codes } };
  nibbles.add((await nibbles.read(slice, backend))!, slice);
  assert.deepEqual(nibbles.counts()!.counts.flatMap((n, code) => n ? [[code, n]] : []), [
    [3, 2],
    [15, 1],
  ]);
  const fp8: Scheme = {
    kind: "fp8",
    strategy: { kind: "channel" },
    scaleDType: "f32",
    activations: "none",
  };
  assert.equal(new CodeCounter(fp8).counts(), undefined);
});

Deno.test("phases nest, count what they did themselves, and add up to the whole", async () => {
  let now = 0;
  let [most, current] = [100, 90];
  const pass = (ms: number) => void (now += ms);
  const clock = new Trace({
    now: () => now,
    residentBytes: () => most,
    currentBytes: () => current,
  });
  pass(5);
  clock.enter("one");
  await clock.time("round", async () => {
    pass(10);
    most = 300;
    current = 200;
    await clock.time("measure", () => pass(20));
    pass(30);
  });
  clock.enter("two");
  await assert.rejects(clock.time("walk", () => {
    pass(40);
    throw new Error("stop");
  }));
  clock.enter(undefined);
  pass(7);
  const { total, blocks } = clock.phases();
  const seconds = (uses: Record<string, { seconds: number }>) =>
    Object.fromEntries(Object.entries(uses).map(([name, use]) => [name, use.seconds * 1000]));
  assert.deepEqual(seconds(total), { walk: 40, round: 40, measure: 20, other: 12 });
  assert.deepEqual(blocks.map(({ name, phases }) => [name, seconds(phases)]), [
    ["one", { other: 0, round: 40, measure: 20 }],
    ["two", { walk: 40, other: 0 }],
  ]);
  assert.deepEqual(Object.keys(total), ["walk", "round", "measure", "other"]);
  // The most so far rose to 300 while codes were rounded; later phases held what they held.
  assert.equal(total.round!.peakBytes, 300);
  assert.equal(total.measure!.peakBytes, 200);
  assert.equal(total.walk!.peakBytes, 200);
  assert.equal(total.other!.peakBytes, 200);
});

Deno.test("the phases of a run take as long as the run, block by block", async () => {
  await using into = await folder();
  const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
  await using backend = await openWasm({ threads: 1 });
  const out = join(into.path, "out");
  const options = { scheme: "W4A16", "group-size": 32 };
  const { phases, seconds } = await quantize(model, options, { backend, out, metrics: true });
  const sum = (uses: Record<string, { seconds: number }>) =>
    Object.values(uses).reduce((sum, use) => sum + use.seconds, 0);
  close(sum(phases.total), seconds, 0.05);
  assert.deepEqual(phases.blocks.map(({ name }) => name), [
    "embedding",
    "model.layers.0",
    "model.layers.1",
    "head",
  ]);
  for (const phase of ["load", "walk", "solve", "scales", "round", "measure", "pack", "write"]) {
    assert.ok(phase in phases.blocks[1]!.phases, phase);
  }
  await Deno.remove(model, { recursive: true });
});
