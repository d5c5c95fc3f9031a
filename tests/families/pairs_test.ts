/**
 * Scales that move along the pairs that are read off a block's graph change no logit; stages
 * without a pair are those where they would.
 */
import assert from "node:assert/strict";
import { openWasm } from "../../src/backends/wasm/mod.ts";
import { configureModel } from "../../src/families/mod.ts";
import type { Model } from "../../src/family.ts";
import { originalWeights } from "../../src/forward/weights.ts";
import { graphsOf, type Stage } from "../../src/graph/block_graph.ts";
import type { Matrix } from "../../src/graph/matrices.ts";
import { type Smoothing, smoothingOf } from "../../src/graph/pairs.ts";
import { floatsFrom } from "../../src/number.ts";
import type { TensorSource } from "../../src/source.ts";
import { openCheckpoint } from "../../src/sources/checkpoint.ts";
import { memorySource } from "../memory.ts";
import { randoms } from "../tiny.ts";
import { FAMILIES, MODELS, weightsFolder } from "./given.ts";
import { runModel } from "./run.ts";

const names = MODELS
  .filter((name) => !["dynamic", "linear", "yarn", "short"].includes(name.split(".")[1] ?? ""));

/** A checkpoint's tensors as float32, to be changed. */
type Tensors = Map<
  string,
  { readonly shape: readonly number[]; readonly values: Float32Array<ArrayBuffer> }
>;

async function openModel(
  name: string,
): Promise<{ model: Model; tensors: Tensors; ids: Uint32Array<ArrayBuffer> }> {
  const folder = new URL(`${name}/`, FAMILIES);
  await using source = await openCheckpoint(weightsFolder(name));
  await using golden = await openCheckpoint(new URL("golden.safetensors", folder));
  const config = JSON.parse(await Deno.readTextFile(new URL("config.json", folder)));
  const tensors: Tensors = new Map();
  for (const { name, shape, dtype } of source.tensors.values()) {
    tensors.set(name, { shape, values: floatsFrom(dtype as "bf16", await source.read(name)) });
  }
  return {
    model: configureModel(config, (tensor) => source.tensors.has(tensor)),
    tensors,
    ids: Uint32Array.from(new Int32Array((await golden.read("input_ids")).buffer)).slice(0, 24),
  };
}

function sourceOf(tensors: Tensors): TensorSource {
  return memorySource(
    [...tensors].map(([name, { shape, values }]) => ({
      name,
      dtype: "f32",
      shape,
      bytes: new Uint8Array(values.slice().buffer),
    })),
  );
}

function scale(tensors: Tensors, name: string, change: (value: number, i: number) => number): void {
  const { values } = tensors.get(name)!;
  values.forEach((value, i) => values[i] = change(value, i));
}

/** Multiply the element of row r and column c of a matrix. */
function scaleMatrix(
  tensors: Tensors,
  { at, rows, columns }: Matrix,
  factor: (row: number, column: number) => number,
): void {
  scale(tensors, at.of, (value, i) => {
    const [row, column] = at.transposed
      ? [i % rows, Math.floor(i / rows)]
      : [Math.floor(i / columns), i % columns];
    return value * factor(row, column);
  });
}

/** Move scales along a pair. */
function move(
  tensors: Tensors,
  { stage, smoothing, scales }: {
    readonly stage: Stage;
    readonly smoothing: Smoothing;
    readonly scales: Float64Array;
  },
): void {
  if (smoothing.kind === "norm") {
    const { weight, bias, plusOne } = smoothing.norm;
    const plus = plusOne ? 1 : 0;
    scale(tensors, weight!, (value, c) => (value + plus) / scales[c]! - plus);
    if (bias) scale(tensors, bias, (value, c) => value / scales[c]!);
  } else {
    const byRow = new Map<number, number>();
    smoothing.rows.forEach((row, channel) => byRow.set(row, scales[channel]!));
    const factor = (row: number) => 1 / (byRow.get(row) ?? 1);
    const { matrix } = smoothing;
    scaleMatrix(tensors, matrix, factor);
    if (matrix.bias) scale(tensors, matrix.bias, (value, row) => value * factor(row));
  }
  for (const matrix of stage.matrices) {
    scaleMatrix(tensors, matrix, (_, column) => scales[column]!);
  }
}

/** Random scales, the same for channels of one row. */
function randomScales(stage: Stage, smoothing: Smoothing): Float64Array {
  const count = smoothing.kind === "norm" ? stage.channels : smoothing.matrix.rows;
  const next = randoms(count);
  const all = Float64Array.from({ length: count }, () => 2 ** next());
  return smoothing.kind === "norm" ? all : Float64Array.from(smoothing.rows, (row) => all[row]!);
}

for (const name of names) {
  Deno.test(`scales move along every pair of the ${name} model without changing a logit`, async () => {
    await using backend = await openWasm({ threads: 1 });
    const { model, tensors, ids } = await openModel(name);
    const logitsOf = async (tensors: Tensors) => {
      const weights = originalWeights(sourceOf(tensors));
      return (await runModel(model, weights, { ids, backend })).logits;
    };
    const before = await logitsOf(tensors);
    let pairs = 0;
    for (const graph of graphsOf(model)) {
      for (const stage of graph.stages) {
        const smoothing = smoothingOf(graph, stage);
        if (!smoothing) continue;
        pairs++;
        const changed: Tensors = new Map(
          [...tensors].map((
            [name, { shape, values }],
          ) => [name, { shape, values: values.slice() }]),
        );
        move(changed, { stage, smoothing, scales: randomScales(stage, smoothing) });
        const after = await logitsOf(changed);
        const off = after.reduce((most, x, i) => Math.max(most, Math.abs(x - before[i]!)), 0);
        assert.ok(off < 1e-4, `${graph.block.name} ${stage.input}: ${off}`);
      }
    }
    assert.ok(pairs >= 2, `only ${pairs} pairs`);
  });
}

/** Which stages of a block have a pair, by their inputs, as it was worked out by hand. */
for (const name of MODELS) {
  const folder = new URL(`${name}/`, FAMILIES);
  if (![...Deno.readDirSync(folder)].some(({ name }) => name === "pairs.json")) continue;
  Deno.test(`the pairs of the ${name} model are those that are exact`, async () => {
    const expected = JSON.parse(await Deno.readTextFile(new URL("pairs.json", folder)));
    const { model } = await openModel(name);
    const [graph] = graphsOf(model);
    const found = graph!.stages.filter((stage) => smoothingOf(graph!, stage));
    assert.deepEqual(found.map(({ input }) => input), expected);
  });
}
