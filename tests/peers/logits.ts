/**
 * Logits of a quantized checkpoint as Sluice computes them, for open_checkpoint.py's to be compared
 * with:
 *
 *     deno run -A tests/peers/logits.ts OUT WINDOW.json THEIRS.json PREFIX [wasm|webgpu]
 *
 * Writes PREFIX.json and raw little-endian f32 files: `weights`, a plain product with the
 * dequantized weights; `runtime`, the product the scheme computes, activations rounded where it
 * says so; `linears`, the outputs of single layers for the inputs that THEIRS.json lists.
 */
import { basename, dirname, join } from "node:path";
import { readFile, writeFile } from "node:fs/promises";
import { Buffer } from "node:buffer";
import process from "node:process";
import type { Backend } from "../../src/backend.ts";
import { weightsOf } from "../../src/evaluate.ts";
import { loadTable, type ModelWeights, storedRows } from "../../src/forward/weights.ts";
import { recognize } from "../../src/formats/mod.ts";
import { transposedTensors } from "../../src/graph/block_graph.ts";
import { modelOf } from "../../src/plan/model.ts";
import type { Rows } from "../../src/source.ts";
import { matrixShape } from "../../src/tensor.ts";
import { open, openBackend } from "../../mod.ts";
import { runModel } from "../families/run.ts";

/** A checkpoint's weights as if its quantized ones were stored dequantized, in f32. */
function dequantized(
  weights: ModelWeights,
  { turned, backend }: { turned: ReadonlySet<string>; backend: Backend },
): ModelWeights {
  const rowsOf = async (name: string, rows: Rows) => {
    using scope = backend.scope();
    const [bytes] = await backend.read(await loadTable(name, weights, { scope, rows }));
    return bytes!;
  };
  return {
    ...weights,
    isOriginal: (name) => weights.stored(name) === undefined,
    stored: () => undefined,
    info(name) {
      const stored = weights.stored(name);
      if (!stored) return weights.info(name);
      const { shape } = stored.weight;
      return { name, dtype: "f32", shape: turned.has(name) ? shape.toReversed() : shape };
    },
    read: async (name, rows) =>
      weights.stored(name) ? await rowsOf(name, rows!) : await weights.read(name, rows),
    async readMatrix(at, rows) {
      const stored = weights.stored(at.of);
      if (!stored) return await weights.readMatrix(at, rows);
      const [count] = matrixShape(stored.weight.shape);
      return await rowsOf(at.of, rows ?? { from: 0, to: count });
    },
  };
}

/**
 * The inputs of single layers that open_checkpoint.py kept: x f32[tokens, columns] at `x` values
 * into its file.
 */
interface Recorded {
  readonly file: string;
  readonly tokens: number;
  readonly entries: readonly {
    readonly weight: string;
    readonly columns: number;
    readonly rows: number;
    readonly x: number;
  }[];
}

/** The outputs of those layers, one after the other. */
async function linearOutputs(
  { file, tokens, entries }: Recorded,
  weights: ModelWeights,
  { backend, folder }: { backend: Backend; folder: string },
): Promise<Float32Array<ArrayBuffer>[]> {
  const values = new Float32Array(Uint8Array.from(await readFile(join(folder, file))).buffer);
  const outputs: Float32Array<ArrayBuffer>[] = [];
  for (const { weight, columns, x: at } of entries) {
    using scope = backend.scope();
    const x = scope.alloc("f32", [tokens, columns]);
    backend.write(x, new Uint8Array(values.slice(at, at + tokens * columns).buffer));
    const stored = weights.stored(weight)!;
    const rows = { from: 0, to: matrixShape(stored.weight.shape)[0] };
    const { product: multiply } = await storedRows(stored, weights.read, { scope, rows });
    const y = scope.alloc("f32", [tokens, rows.to]);
    multiply(x, y, 0);
    const [bytes] = await backend.read(y);
    outputs.push(new Float32Array(bytes!.buffer));
  }
  return outputs;
}

const [checkpoint, window, theirs, prefix, device = "wasm"] = process.argv.slice(2);
if (!checkpoint || !window || !theirs || !prefix || !(device === "wasm" || device === "webgpu")) {
  throw new Error("usage: logits.ts OUT WINDOW.json THEIRS.json PREFIX [wasm|webgpu]");
}
const tokens = Uint32Array.from(JSON.parse(await readFile(window, "utf8")).tokens as number[]);
const { linears } = JSON.parse(await readFile(theirs, "utf8")) as { linears?: Recorded };
await using source = await open(checkpoint);
await using backend = await openBackend(device);
const found = await recognize(source);
const model = modelOf(
  source,
  (name) => source.tensors.has(name) || found?.weights.has(name) === true,
);
const runtime = await weightsOf(source, model);
const turned = transposedTensors(model);
const kinds = { weights: dequantized(runtime, { turned, backend }), runtime };
const files: Record<string, { file: string; dtype: "f32"; shape: number[] }> = {};
const write = async (kind: string, values: readonly Float32Array[], shape: number[]) => {
  const file = `${basename(prefix)}.${kind}.f32`;
  await writeFile(
    join(dirname(prefix), file),
    Buffer.concat(values.map((part) => new Uint8Array(part.buffer))),
  );
  files[kind] = { file, dtype: "f32", shape };
};
for (const [kind, weights] of Object.entries(kinds)) {
  const { logits } = await runModel(model, weights, { ids: tokens, backend });
  await write(kind, [logits], [tokens.length, model.vocabSize]);
}
if (linears) {
  const outputs = await linearOutputs(linears, runtime, { backend, folder: dirname(theirs) });
  await write("linears", outputs, [outputs.reduce((n, { length }) => n + length, 0)]);
}
await writeFile(
  `${prefix}.json`,
  JSON.stringify({ device: backend.description, logits: files }, null, 1) + "\n",
);
