/**
 * Reading a stored matrix as [R, C], however it lies in its tensor: itself, transposed, or a slice
 * of a stack.
 */
import type { View } from "../family.ts";
import type { ReadTensor } from "../format.ts";
import type { Rows } from "../source.ts";
import { BITS, type TensorInfo } from "../tensor.ts";
import { transpose } from "../linalg/transpose.ts";
import { matrixName } from "./matrices.ts";

/** What a matrix is as a tensor of its own: [R, C] under its name. */
export function matrixInfo(
  at: Omit<View, "rows">,
  { dtype, shape }: Pick<TensorInfo, "dtype" | "shape">,
): TensorInfo {
  const [first = 1, second = 1] = at.index === undefined ? shape : shape.slice(1);
  return {
    name: matrixName(at),
    dtype,
    shape: at.transposed ? [second, first] : at.index === undefined ? shape : [first, second],
  };
}

/** The readings of a source that a matrix takes. */
export function readingsOf(
  at: Omit<View, "rows">,
): { readonly name: string; readonly rows?: Rows } {
  const { of: name, index } = at;
  return index === undefined ? { name } : { name, rows: { from: index, to: index + 1 } };
}

/** Bytes of a matrix, or of rows of it, in the tensor's own dtype. */
export type ReadMatrix = (
  at: Omit<View, "rows">,
  rows?: Rows,
) => Promise<Uint8Array<ArrayBuffer>>;

/**
 * Reads matrices of a source. A transposed one is read whole and turned; the last is kept, for its
 * rows are asked for slice by slice.
 *
 * @param infoOf What the source has under a tensor's name.
 */
export function matrixReader(
  read: ReadTensor,
  infoOf: (tensor: string) => Pick<TensorInfo, "dtype" | "shape">,
): ReadMatrix {
  let last: { readonly name: string; readonly bytes: Promise<Uint8Array<ArrayBuffer>> } | undefined;
  return async (at, rows) => {
    if (at.index === undefined && !at.transposed) return await read(at.of, rows);
    const info = infoOf(at.of);
    const { name, dtype, shape } = matrixInfo(at, info);
    const [height = 1, width = 1] = shape;
    if (last?.name !== name) last = { name, bytes: readWhole(at, { read, dtype, height, width }) };
    const bytes = await last.bytes;
    if (!rows) return bytes;
    const row = width * BITS[dtype] / 8;
    return bytes.slice(rows.from * row, rows.to * row);
  };
}

async function readWhole(
  at: Omit<View, "rows">,
  { read, dtype, height, width }: {
    readonly read: ReadTensor;
    readonly dtype: TensorInfo["dtype"];
    readonly height: number;
    readonly width: number;
  },
): Promise<Uint8Array<ArrayBuffer>> {
  const { name, rows } = readingsOf(at);
  const bytes = await read(name, rows);
  return at.transposed
    ? transpose(bytes, { rows: width, columns: height, bits: BITS[dtype] })
    : bytes;
}
