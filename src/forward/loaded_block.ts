/** A block's weights of one stream, on a device, in slices that it can bind. */
import type { Backend, Scope, Tensor } from "../backend.ts";
import type { Matrix } from "../graph/matrices.ts";
import { matrixInfo } from "../graph/matrix_reader.ts";
import { addBias, embedding } from "../ops/mod.ts";
import type { MatrixRows, TapeTensors } from "./backward.ts";
import {
  floatRows,
  infoOf,
  type LoadedRows,
  loadVector,
  type ModelWeights,
  place,
  sliceStep,
  storedRows,
} from "./weights.ts";

/** One matrix, in slices of its rows. */
interface LoadedMatrix {
  readonly rows: number;
  readonly columns: number;
  readonly slices: readonly {
    /** The first of its rows. */
    readonly from: number;
    readonly loaded: LoadedRows;
    /** The rows themselves, where they are not quantized. */
    readonly weight: Tensor | undefined;
  }[];
}

/** What of a block is loaded. */
export interface BlockContent {
  readonly matrices: readonly Matrix[];
  /** Norms and biases. */
  readonly vectors: readonly string[];
}

/** See the head of this file. */
export class LoadedBlock implements TapeTensors {
  readonly #matrices = new Map<string, LoadedMatrix>();
  readonly #vectors = new Map<string, Tensor>();

  /** Weights that `shared` has and that are stored alike are taken from there. */
  static async load(
    { matrices, vectors }: BlockContent,
    weights: ModelWeights,
    { scope, shared }: { scope: Scope; shared?: LoadedBlock | undefined },
  ): Promise<LoadedBlock> {
    const block = new LoadedBlock();
    const known = <T>(of: ReadonlyMap<string, T> | undefined, name: string) =>
      weights.isOriginal(name) ? of?.get(name) : undefined;
    const [sharedMatrices, sharedVectors] = shared ? [shared.#matrices, shared.#vectors] : [];
    for (const matrix of matrices) {
      const { name } = matrix;
      const loaded = known(sharedMatrices, name) ?? await loadMatrix(matrix, weights, scope);
      block.#matrices.set(name, loaded);
    }
    for (const name of vectors) {
      const loaded = known(sharedVectors, name) ?? await loadVector(name, weights, scope);
      block.#vectors.set(name, loaded);
    }
    return block;
  }

  vector(name: string): Tensor {
    const tensor = this.#vectors.get(name);
    if (!tensor) throw new RangeError(`Cannot run the block: "${name}" was not loaded`);
    return tensor;
  }

  product({ name, bias }: Matrix, x: Tensor, scope: Scope): Tensor {
    const [tokens = 0] = x.shape;
    const { rows, slices } = this.#matrices.get(name)!;
    const y = scope.alloc("f32", [tokens, rows]);
    for (const { from, loaded } of slices) loaded.product(x, y, from);
    if (bias) scope.backend.run(addBias, { b: this.vector(bias), y });
    return y;
  }

  rowsOf({ name }: Matrix): Iterable<MatrixRows> {
    return this.#matrices.get(name)!.slices.map(({ from, loaded }) => ({
      from,
      values: (scope) => loaded.values(scope),
    }));
  }

  /**
   * Rows of a matrix that is not quantized, in the order asked: f32[ids.length, C] in `scope`.
   *
   * @throws {RangeError} the matrix was not loaded, or is quantized.
   */
  rows(name: string, ids: Uint32Array<ArrayBuffer>, scope: Scope): Tensor {
    const matrix = this.#matrices.get(name);
    if (!matrix || matrix.slices.some(({ weight }) => !weight)) {
      throw new RangeError(`Cannot take rows of "${name}": its float values were not loaded`);
    }
    const { backend } = scope;
    const x = scope.alloc("f32", [ids.length, matrix.columns]);
    using scratch = backend.scope();
    const wanted = scratch.alloc("u32", [ids.length]);
    backend.write(wanted, new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength));
    for (const { from, weight } of matrix.slices) {
      backend.run(embedding, { ids: wanted, table: weight!, x }, { first: from });
    }
    return x;
  }
}

async function loadMatrix(
  { name, at, rows, columns }: Matrix,
  weights: ModelWeights,
  scope: Scope,
): Promise<LoadedMatrix> {
  const stored = weights.stored(name);
  const count = sliceRows({ rows, columns, step: sliceStep(name, weights) }, scope.backend);
  const slices = [];
  for (let from = 0; from < rows; from += count) {
    const slice = { from, to: Math.min(rows, from + count) };
    if (stored) {
      const loaded = await storedRows(stored, weights.read, { scope, rows: slice });
      slices.push({ from, loaded, weight: undefined });
      continue;
    }
    const info = matrixInfo(at, infoOf(at.of, weights));
    const bytes = await weights.readMatrix(at, slice);
    const weight = place({ ...info, shape: [slice.to - from, columns] }, bytes, scope);
    slices.push({ from, loaded: floatRows(weight, scope), weight });
  }
  return { rows, columns, slices };
}

/** Rows of a slice: dequantized for a product, it is f32. */
function sliceRows(
  { rows, columns, step }: { rows: number; columns: number; step: number },
  { maxTensorBytes }: Pick<Backend, "maxTensorBytes">,
): number {
  const fitting = Math.floor(maxTensorBytes / (columns * 4) / step) * step;
  return Math.min(rows, Math.max(step, fitting));
}
