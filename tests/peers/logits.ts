/**
 * Logits of a quantized checkpoint as Sluice computes them, for open_checkpoint.py's to be compared with:
 *
 *     deno run -A tests/peers/logits.ts OUT WINDOW.json THEIRS.json PREFIX [wasm|webgpu]
 *
 * Writes PREFIX.json and raw little-endian f32 files: `weights`, a plain product with the dequantized weights; `runtime`, the
 * product the scheme computes, activations rounded where it says so; `linears`, the outputs of single layers for the inputs
 * that THEIRS.json lists.
 */
import { basename, dirname, join } from "node:path";
import { readFile, writeFile } from "node:fs/promises";
import { Buffer } from "node:buffer";
import process from "node:process";
import type { Backend, Scope, Tensor } from "../../src/backend.ts";
import { weightsOf } from "../../src/evaluate.ts";
import { type Block, type Forward, forwardBlock, type Model } from "../../src/family.ts";
import { addBias, embedding, matmulNt } from "../../src/ops/mod.ts";
import type { DeviceDType } from "../../src/op.ts";
import { modelOf } from "../../src/plan.ts";
import { recognize } from "../../src/formats/mod.ts";
import { schemeKind } from "../../src/schemes/mod.ts";
import type { ModelWeights } from "../../src/weights.ts";
import { matrixShape } from "../../src/tensor.ts";
import { open, openBackend } from "../../mod.ts";

/** How a quantized weight is multiplied. */
type Kind = "weights" | "runtime";

/** Rows of the head whose logits are on the device at once. */
const HEAD_ROWS = 8192;

/** A tensor that is stored as it was, or rows of it, on the device. */
async function upload(
  name: string,
  weights: ModelWeights,
  { scope, rows }: { scope: Scope; rows?: { from: number; to: number } },
): Promise<Tensor> {
  const info = weights.info(name);
  if (!info) throw new Error(`Cannot compute logits: the checkpoint has no tensor "${name}".`);
  const [first = 0, ...rest] = info.shape;
  const tensor = scope.alloc(info.dtype as DeviceDType, [
    rows ? rows.to - rows.from : first,
    ...rest,
  ]);
  scope.backend.write(tensor, await weights.read(name, rows));
  return tensor;
}

/** A function that multiplies by one weight: y f32[T, R] in the scope given, for x f32[T, C]. */
async function loadLinear(
  name: string,
  weights: ModelWeights,
  { scope, kind }: { scope: Scope; kind: Kind },
): Promise<(x: Tensor, scope: Scope) => Tensor> {
  const { backend } = scope;
  const stored = weights.stored(name);
  const [rows] = matrixShape(stored?.weight.shape ?? weights.info(name)?.shape ?? []);
  const output = (x: Tensor, scope: Scope) => scope.alloc("f32", [x.shape[0]!, rows]);
  const plainly = (w: Tensor) => (x: Tensor, scope: Scope) => {
    const y = output(x, scope);
    backend.run(matmulNt, { x, w, y }, { column: 0 });
    return y;
  };
  if (!stored) return plainly(await upload(name, weights, { scope }));
  const quantized = await stored.format.unpack(stored.weight, weights.read, { scope });
  const scheme = schemeKind(quantized.scheme);
  if (kind === "weights") return plainly(scheme.dequantize(quantized, scope));
  return (x, scope) => {
    const y = output(x, scope);
    scheme.linear(quantized, x, y, { scope, column: 0 });
    return y;
  };
}

/** One block with its weights on the device. */
async function loadBlock(
  block: Block,
  weights: ModelWeights,
  { scope, kind }: { scope: Scope; kind: Kind },
): Promise<Pick<Forward, "weight"> & { linear(weight: string, x: Tensor, scope: Scope): Tensor }> {
  const linears = new Map<string, (x: Tensor, scope: Scope) => Tensor>();
  const plain = new Map<string, Tensor>();
  for (const { weight, bias } of block.linears) {
    linears.set(weight, await loadLinear(weight, weights, { scope, kind }));
    if (bias) plain.set(bias, await upload(bias, weights, { scope }));
  }
  for (const name of block.others) plain.set(name, await upload(name, weights, { scope }));
  return {
    linear: (weight, x, scope) => linears.get(weight)!(x, scope),
    weight: (name) => plain.get(name)!,
  };
}

/** Logits f32[T, V] of one window, through the whole model. */
async function logits(
  model: Model,
  weights: ModelWeights,
  { backend, tokens, kind }: { backend: Backend; tokens: Uint32Array<ArrayBuffer>; kind: Kind },
): Promise<Float32Array<ArrayBuffer>> {
  using held = backend.scope();
  const table = (values: Float32Array<ArrayBuffer>) => {
    const tensor = held.alloc("f32", [tokens.length, values.length / tokens.length]);
    backend.write(tensor, new Uint8Array(values.buffer));
    return tensor;
  };
  const rotary = model.rotary(tokens.length);
  const [cos, sin] = [table(rotary.cos), table(rotary.sin)];
  let x = held.alloc("f32", [tokens.length, model.hiddenSize]);
  {
    using scope = backend.scope();
    const ids = scope.alloc("u32", [tokens.length]);
    backend.write(ids, new Uint8Array(tokens.buffer));
    backend.run(embedding, { ids, table: await upload(model.embedding, weights, { scope }), x }, {
      first: 0,
    });
    await backend.finish();
  }
  for (const block of model.blocks) {
    using scope = backend.scope();
    const loaded = await loadBlock(block, weights, { scope, kind });
    const y = forwardBlock(block, x, {
      scope,
      cos,
      sin,
      weight: loaded.weight,
      linear: ({ weight, bias }, x, scope) => {
        const y = loaded.linear(weight, x, scope);
        if (bias) backend.run(addBias, { b: loaded.weight(bias), y });
        return y;
      },
    });
    await backend.finish();
    x = held.adopt(scope.release(y));
  }
  const norms = new Map<string, Tensor>();
  for (const name of model.final) norms.set(name, await upload(name, weights, { scope: held }));
  const hidden = model.finish(x, { scope: held, weight: (name) => norms.get(name)! });
  const result = new Float32Array(tokens.length * model.vocabSize);
  for (let from = 0; from < model.vocabSize; from += HEAD_ROWS) {
    using scope = backend.scope();
    const to = Math.min(model.vocabSize, from + HEAD_ROWS);
    const w = await upload(model.head.weight, weights, { scope, rows: { from, to } });
    const y = scope.alloc("f32", [tokens.length, to - from]);
    backend.run(matmulNt, { x: hidden, w, y }, { column: 0 });
    const [bytes] = await backend.read(y);
    const part = new Float32Array(bytes!.buffer);
    for (let t = 0; t < tokens.length; t++) {
      result.set(part.subarray(t * (to - from), (t + 1) * (to - from)), t * model.vocabSize + from);
    }
  }
  return result;
}

/** The inputs of single layers that open_checkpoint.py kept: x f32[tokens, columns] at `x` values into its file. */
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
    const multiply = await loadLinear(weight, weights, { scope, kind: "runtime" });
    const [bytes] = await backend.read(multiply(x, scope));
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
const weights = await weightsOf(source, model);
const files: Record<string, { file: string; dtype: "f32"; shape: number[] }> = {};
const write = async (kind: string, values: readonly Float32Array[], shape: number[]) => {
  const file = `${basename(prefix)}.${kind}.f32`;
  await writeFile(
    join(dirname(prefix), file),
    Buffer.concat(values.map((part) => new Uint8Array(part.buffer))),
  );
  files[kind] = { file, dtype: "f32", shape };
};
for (const kind of ["weights", "runtime"] as const) {
  await write(kind, [await logits(model, weights, { backend, tokens, kind })], [
    tokens.length,
    model.vocabSize,
  ]);
}
if (linears) {
  const outputs = await linearOutputs(linears, weights, { backend, folder: dirname(theirs) });
  await write("linears", outputs, [outputs.reduce((n, { length }) => n + length, 0)]);
}
await writeFile(
  `${prefix}.json`,
  JSON.stringify({ device: backend.description, logits: files }, null, 1) + "\n",
);
