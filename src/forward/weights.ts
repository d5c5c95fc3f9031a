/**
 * Where a stream's weights come from: of an unquantized checkpoint, of a quantized one that a
 * format recognized, or of a plan that is being carried out, from the bytes that were stored; and
 * how rows of a table get onto a device.
 */
import type { Scope, Tensor } from "../backend.ts";
import { CheckpointError } from "../errors.ts";
import type { Format, ReadTensor, StoredWeight } from "../format.ts";
import { keepWhole } from "../formats/whole_reads.ts";
import { matrixReader, type ReadMatrix } from "../graph/matrix_reader.ts";
import type { DeviceDType } from "../op.ts";
import { matmulNt } from "../ops/mod.ts";
import { widened } from "../ops/widen.ts";
import type { Plan } from "../plan/planned.ts";
import { schemeKind } from "../schemes/mod.ts";
import { copied } from "../plan/content.ts";
import { rowStep } from "../plan/slices.ts";
import type { Rows, TensorSource } from "../source.ts";
import { matrixShape, type TensorInfo } from "../tensor.ts";
import { refuseNaN } from "../number.ts";

/** Where one stream's weights come from. */
export interface ModelWeights {
  /** Streams of one source may share what is stored as it was. */
  readonly source: TensorSource;
  /** A tensor that is stored as it was. */
  info(name: string): TensorInfo | undefined;
  /** Whether a tensor or matrix is stored as it was, so that streams of one source may share it. */
  isOriginal(name: string): boolean;
  /** A weight that is stored quantized; the name is that of its matrix. */
  stored(name: string): { readonly weight: StoredWeight; readonly format: Format } | undefined;
  readonly read: ReadTensor;
  readonly readMatrix: ReadMatrix;
}

/** The weights of an unquantized checkpoint. */
export function originalWeights(source: TensorSource): ModelWeights {
  const read: ReadTensor = (name, rows) => source.read(name, rows);
  const info = (name: string) => source.tensors.get(name);
  return {
    source,
    info,
    isOriginal: () => true,
    stored: () => undefined,
    read,
    readMatrix: matrixReader(read, (name) => infoOf(name, { info })),
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
  const tasks = new Map(
    plan.units.flatMap(({ tasks }) => tasks).map((task) => [task.name, task]),
  );
  const outputs = new Map(
    [...tasks.values()].flatMap(({ outputs }) => outputs).map((info) => [info.name, info]),
  );
  return {
    ...originalWeights(source),
    info: (name) => outputs.get(name) ?? source.tensors.get(name),
    isOriginal(name) {
      const task = tasks.get(name);
      // What is copied may be cast.
      return !task || task.kind === "copy" && task.dtype === task.source.dtype;
    },
    stored(name) {
      const task = tasks.get(name);
      if (task?.kind !== "quantize") return undefined;
      const { scheme, weight: { shape, transposed }, outputs: parts } = task;
      const weight = { name, shape, scheme, parts, ...(transposed ? { transposed } : {}) };
      return { weight, format: plan.format };
    },
    async read(name, rows) {
      const bytes = packed.get(name);
      const task = tasks.get(name);
      if (!bytes) {
        const found = await source.read(name, rows);
        return task?.kind === "copy" ? copied(task, found) : found;
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

/**
 * Rows of a weight on the device: y[:, column … column + rows) = x · Wᵀ as the stream's runtime
 * computes it.
 */
export type Product = (x: Tensor, y: Tensor, column: number) => void;

/** Rows of a weight on the device. */
export interface LoadedRows {
  readonly product: Product;
  /** Their values, f32[rows, C]: what is on the device, or made in `scope`. */
  values(scope: Scope): Tensor;
}

/** Rows that are not quantized, f32|bf16|f16[rows, C]. */
export function floatRows(w: Tensor, { backend }: Scope): LoadedRows {
  return {
    product: (x, y, column) => backend.run(matmulNt, { x, w, y }, { column }),
    values: (scope) => widened(w, scope),
  };
}

/** Rows of a weight that is stored quantized. */
export async function storedRows(
  { weight, format }: NonNullable<ReturnType<ModelWeights["stored"]>>,
  read: ReadTensor,
  { scope, rows }: { readonly scope: Scope; readonly rows: Rows },
): Promise<LoadedRows> {
  const { backend } = scope;
  const quantized = await format.unpack(weight, read, { scope, rows });
  const kind = schemeKind(quantized.scheme);
  return {
    product(x, y, column) {
      using scratch = backend.scope();
      kind.linear(quantized, x, y, { scope: scratch, column });
    },
    values(own) {
      return widened(kind.dequantize(quantized, own), own);
    },
  };
}

/** Bring rows of the output head onto the device. */
export async function loadRows(
  name: string,
  weights: ModelWeights,
  { scope, rows }: { scope: Scope; rows: Rows },
): Promise<LoadedRows> {
  const stored = weights.stored(name);
  if (stored) return await storedRows(stored, weights.read, { scope, rows });
  return floatRows(await upload(name, weights, { scope, rows }), scope);
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

/** Rows that slices of a weight must be multiples of. */
export function sliceStep(name: string, weights: ModelWeights): number {
  const stored = weights.stored(name);
  if (!stored) return 1;
  return rowStep(stored.weight, stored.format, matrixShape(stored.weight.shape));
}

/**
 * What a checkpoint has under a tensor's name.
 *
 * @throws {CheckpointError} nothing.
 */
export function infoOf(name: string, { info }: Pick<ModelWeights, "info">): TensorInfo {
  const found = info(name);
  if (!found) {
    throw new CheckpointError(`Cannot run the model: the checkpoint has no tensor "${name}".`, {
      tensor: name,
    });
  }
  return found;
}

/** Bytes of a tensor on the device. */
export function place(
  { name, dtype, shape }: TensorInfo,
  bytes: Uint8Array<ArrayBuffer>,
  scope: Scope,
): Tensor {
  refuseNaN({ name, dtype }, bytes, "run the model with");
  const tensor = scope.alloc(dtype as DeviceDType, shape);
  scope.backend.write(tensor, bytes);
  return tensor;
}

/** Rows of a tensor, or all of it, as they are stored. */
async function upload(
  name: string,
  weights: ModelWeights,
  { scope, rows }: { scope: Scope; rows?: Rows },
): Promise<Tensor> {
  const { dtype, shape } = infoOf(name, weights);
  const size = rows ? [rows.to - rows.from, ...shape.slice(1)] : shape;
  return place({ name, dtype, shape: size }, await weights.read(name, rows), scope);
}

/** A tensor that is no matrix, whole: a norm, a bias. */
export async function loadVector(
  name: string,
  weights: ModelWeights,
  scope: Scope,
): Promise<Tensor> {
  const stored = weights.stored(name);
  if (!stored) return await upload(name, weights, { scope });
  // Only a cast reaches norms and biases; its one tensor is the weight.
  const quantized = await stored.format.unpack(stored.weight, weights.read, { scope });
  const narrow = quantized.tensors.weight!;
  const tensor = scope.alloc(narrow.dtype, stored.weight.shape);
  scope.backend.write(tensor, (await scope.backend.read(narrow))[0]!);
  return tensor;
}
