/**
 * Where a stream's weights come from, and how they get onto a device a block at a time: of an unquantized checkpoint, of a quantized one
 * that a format recognized, or of a plan that is being carried out, from the bytes that were stored, unpacked as a loader would.
 */
import type { Scope, Tensor } from "./backend.ts";
import { copied } from "./content.ts";
import { CheckpointError } from "./errors.ts";
import type { Linear } from "./family.ts";
import type { Format, ReadTensor, StoredWeight } from "./format.ts";
import type { DeviceDType } from "./op.ts";
import { addBias, embedding, matmulNt } from "./ops/mod.ts";
import type { Plan } from "./plan.ts";
import { schemeKind } from "./schemes/mod.ts";
import { rowStep } from "./slices.ts";
import type { Rows, TensorSource } from "./source.ts";
import { matrixShape, type TensorInfo } from "./tensor.ts";
import { refuseNaN } from "./usable.ts";
import { keepWhole } from "./whole_reads.ts";

/** Where one stream's weights come from. */
export interface ModelWeights {
  /** Streams of one source may share what is stored as it was. */
  readonly source: TensorSource;
  /** A tensor that is stored as it was. */
  info(name: string): TensorInfo | undefined;
  /** Whether a tensor is stored as it was, so that streams of one source may share it. */
  isOriginal(name: string): boolean;
  /** A weight that is stored quantized. */
  stored(name: string): { readonly weight: StoredWeight; readonly format: Format } | undefined;
  readonly read: ReadTensor;
}

/** The weights of an unquantized checkpoint. */
export function originalWeights(source: TensorSource): ModelWeights {
  return {
    source,
    info: (name) => source.tensors.get(name),
    isOriginal: () => true,
    stored: () => undefined,
    read: (name, rows) => source.read(name, rows),
  };
}

/** The weights of a checkpoint that a format recognized. */
export function storedWeights(
  source: TensorSource,
  { format, weights }: { format: Format; weights: ReadonlyMap<string, StoredWeight> },
): ModelWeights {
  const original = originalWeights(source);
  return {
    ...original,
    read: format.gathers ? keepWhole(original.read) : original.read,
    isOriginal: (name) => !weights.has(name),
    stored(name) {
      const weight = weights.get(name);
      return weight && { weight, format };
    },
  };
}

/** The weights a plan makes, from the packed bytes of the block at hand. */
export function quantizedWeights(
  plan: Plan,
  { source, packed }: {
    source: TensorSource;
    packed: ReadonlyMap<string, Uint8Array<ArrayBuffer>>;
  },
): ModelWeights {
  const steps = new Map(
    plan.blocks.flatMap(({ steps }) => steps).map((step) => [step.source.name, step]),
  );
  const outputs = new Map(
    [...steps.values()].flatMap((step) => step.outputs).map((info) => [info.name, info]),
  );
  return {
    source,
    info(name) {
      const isCopied = steps.get(name)?.fate.kind === "copy";
      return isCopied ? outputs.get(name) : source.tensors.get(name);
    },
    isOriginal(name) {
      const fate = steps.get(name)?.fate;
      return fate?.kind !== "quantize" && fate?.kind !== "scale" &&
        !(fate?.kind === "copy" && fate.dtype !== undefined);
    },
    stored(name) {
      const step = steps.get(name);
      if (step?.fate.kind !== "quantize") return undefined;
      const { fate: { scheme }, source: { shape }, outputs: parts } = step;
      return { weight: { name, shape, scheme, parts }, format: plan.format };
    },
    async read(name, rows) {
      const bytes = packed.get(name);
      const step = steps.get(name);
      if (!bytes) {
        const found = await source.read(name, rows);
        return step ? copied(step.source, step.fate, found) : found;
      }
      if (!rows) return bytes;
      const [count = 1] = outputs.get(name)!.shape;
      const size = bytes.length / count;
      return bytes.slice(rows.from * size, rows.to * size);
    },
  };
}

/** Whether two streams read the same bytes for a tensor. */
export function areAlike(name: string, one: ModelWeights, other: ModelWeights): boolean {
  return one.source === other.source && one.isOriginal(name) && other.isOriginal(name);
}

/** Rows of a weight on the device: y[:, column … column + rows) = x · Wᵀ as the stream's runtime computes it. */
export type Product = (x: Tensor, y: Tensor, column: number) => void;

/** Bring rows of a linear weight onto the device. */
export async function loadProduct(
  name: string,
  weights: ModelWeights,
  { scope, rows }: { scope: Scope; rows: Rows },
): Promise<Product> {
  const { backend } = scope;
  const stored = weights.stored(name);
  if (!stored) return productOf(await upload(name, weights, { scope, rows }), scope);
  const quantized = await stored.format.unpack(stored.weight, weights.read, { scope, rows });
  const kind = schemeKind(quantized.scheme);
  return (x, y, column) => {
    using scratch = backend.scope();
    kind.linear(quantized, x, y, { scope: scratch, column });
  };
}

function productOf(w: Tensor, { backend }: Scope): Product {
  return (x, y, column) => backend.run(matmulNt, { x, w, y }, { column });
}

/** Bring rows of a table of floats onto the device: f32|bf16|f16[rows, C]. */
export async function loadTable(
  name: string,
  weights: ModelWeights,
  { scope, rows }: { scope: Scope; rows: Rows },
): Promise<Tensor> {
  const stored = weights.stored(name);
  if (!stored) return await upload(name, weights, { scope, rows });
  const quantized = await stored.format.unpack(stored.weight, weights.read, { scope, rows });
  return schemeKind(quantized.scheme).dequantize(quantized, scope);
}

/** One linear's weight on the device, in slices that the device can bind. */
interface LoadedLinear {
  readonly rows: number;
  readonly columns: number;
  readonly slices: readonly {
    readonly column: number;
    readonly product: Product;
    /** The rows themselves, where they are not quantized. */
    readonly weight: Tensor | undefined;
  }[];
}

async function loadLinear(
  name: string,
  weights: ModelWeights,
  scope: Scope,
): Promise<LoadedLinear> {
  const stored = weights.stored(name);
  const [rows, columns] = matrixShape(stored?.weight.shape ?? infoOf(name, weights).shape);
  const step = sliceStep(name, weights);
  // Dequantized for a product, a slice is f32.
  const fitting = Math.floor(scope.backend.maxTensorBytes / (columns * 4) / step) * step;
  const count = Math.min(rows, Math.max(step, fitting));
  const slices = [];
  for (let from = 0; from < rows; from += count) {
    const slice = { from, to: Math.min(rows, from + count) };
    const weight = stored ? undefined : await upload(name, weights, { scope, rows: slice });
    const product = weight
      ? productOf(weight, scope)
      : await loadProduct(name, weights, { scope, rows: slice });
    slices.push({ column: from, product, weight });
  }
  return { rows, columns, slices };
}

/** Rows that slices of a weight must be multiples of. */
export function sliceStep(name: string, weights: ModelWeights): number {
  const stored = weights.stored(name);
  if (!stored) return 1;
  return rowStep(stored.weight, stored.format, matrixShape(stored.weight.shape));
}

function infoOf(name: string, weights: ModelWeights): TensorInfo {
  const info = weights.info(name);
  if (!info) {
    throw new CheckpointError(`Cannot run the model: the checkpoint has no tensor "${name}".`, {
      tensor: name,
    });
  }
  return info;
}

/** Rows of a tensor, or all of it, as they are stored. */
async function upload(
  name: string,
  weights: ModelWeights,
  { scope, rows }: { scope: Scope; rows?: Rows },
): Promise<Tensor> {
  const { dtype, shape } = infoOf(name, weights);
  const tensor = scope.alloc(
    dtype as DeviceDType,
    rows ? [rows.to - rows.from, ...shape.slice(1)] : shape,
  );
  const bytes = await weights.read(name, rows);
  refuseNaN({ name, dtype }, bytes, "run the model with");
  scope.backend.write(tensor, bytes);
  return tensor;
}

/** A tensor that is no linear weight, whole: a norm, a bias. */
async function loadPlain(name: string, weights: ModelWeights, scope: Scope): Promise<Tensor> {
  const stored = weights.stored(name);
  if (!stored) return await upload(name, weights, { scope });
  // Only a cast reaches norms and biases; its one tensor is the weight.
  const quantized = await stored.format.unpack(stored.weight, weights.read, { scope });
  const narrow = quantized.tensors.weight!;
  const tensor = scope.alloc(narrow.dtype, stored.weight.shape);
  scope.backend.write(tensor, (await scope.backend.read(narrow))[0]!);
  return tensor;
}

/** One block's weights of one stream, on the device. */
export class LoadedBlock {
  readonly #linears = new Map<string, LoadedLinear>();
  readonly #plain = new Map<string, Tensor>();

  /** Weights that `shared` has and that are stored alike are taken from there. */
  static async load(
    names: { readonly linears: readonly Linear[]; readonly others: readonly string[] },
    weights: ModelWeights,
    { scope, shared }: { scope: Scope; shared?: LoadedBlock | undefined },
  ): Promise<LoadedBlock> {
    const block = new LoadedBlock();
    for (const { weight, bias } of names.linears) {
      const known = shared && weights.isOriginal(weight) ? shared.#linears.get(weight) : undefined;
      block.#linears.set(weight, known ?? await loadLinear(weight, weights, scope));
      if (bias) await block.#loadPlain(bias, weights, { scope, shared });
    }
    for (const name of names.others) await block.#loadPlain(name, weights, { scope, shared });
    return block;
  }

  async #loadPlain(
    name: string,
    weights: ModelWeights,
    { scope, shared }: { scope: Scope; shared?: LoadedBlock | undefined },
  ): Promise<void> {
    const known = shared && weights.isOriginal(name) ? shared.#plain.get(name) : undefined;
    this.#plain.set(name, known ?? await loadPlain(name, weights, scope));
  }

  weight(name: string): Tensor {
    const tensor = this.#plain.get(name);
    if (!tensor) throw new RangeError(`Cannot run the block: "${name}" was not loaded`);
    return tensor;
  }

  /**
   * Rows of a linear weight that is not quantized, in the order asked: f32[ids.length, C] in `scope`.
   *
   * @throws {RangeError} the weight was not loaded, or is quantized.
   */
  rows(name: string, ids: Uint32Array<ArrayBuffer>, scope: Scope): Tensor {
    const linear = this.#linears.get(name);
    if (!linear || linear.slices.some(({ weight }) => !weight)) {
      throw new RangeError(`Cannot take rows of "${name}": its float values were not loaded`);
    }
    const { backend } = scope;
    const x = scope.alloc("f32", [ids.length, linear.columns]);
    using scratch = backend.scope();
    const wanted = scratch.alloc("u32", [ids.length]);
    backend.write(wanted, new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength));
    for (const { column, weight } of linear.slices) {
      backend.run(embedding, { ids: wanted, table: weight!, x }, { first: column });
    }
    return x;
  }

  linear({ weight, bias }: Linear, x: Tensor, scope: Scope): Tensor {
    const [tokens = 0] = x.shape;
    const { rows, slices } = this.#linears.get(weight)!;
    const y = scope.alloc("f32", [tokens, rows]);
    for (const { column, product } of slices) product(x, y, column);
    if (bias) scope.backend.run(addBias, { b: this.weight(bias), y });
    return y;
  }
}
