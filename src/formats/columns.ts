/**
 * GPTQ and AWQ store weights as [inputs, outputs]: a row of a weight, an output, is a column of
 * what is stored. A slice of rows is then a run in every stored row, so the tensors of a whole
 * weight are filled in memory and given at the end: writing the runs one by one took 25 times as
 * long for GPTQ, 500 times as long for AWQ (a weight of 4096 × 14336 in slices of 144 rows).
 */
import type { ReadTensor } from "../format.ts";
import type { Rows } from "../source.ts";
import type { TensorInfo } from "../tensor.ts";
import { bytesOf, halvesOf, readPart, widened, wordsOf } from "./bytes.ts";

/** Words of codes, or scales: values of 32 or 16 bits that are moved, not looked at. */
type Cells = Uint32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>;

/** A stored matrix [P, O], row-major. */
export interface Stored<T extends Cells> {
  readonly cells: T;
  readonly outputs: number;
}

/** Put `rows` [N, P] into the columns from `from` on. */
export function putColumns<T extends Cells>(
  rows: T,
  from: number,
  { cells, outputs }: Stored<T>,
): void {
  const height = cells.length / outputs;
  const count = rows.length / height;
  for (let p = 0; p < height; p++) {
    const at = p * outputs + from;
    for (let n = 0; n < count; n++) cells[at + n] = rows[n * height + p]!;
  }
}

/** The inverse of {@linkcode putColumns}: fill `rows` [N, P]. */
export function takeColumns<T extends Cells>(
  rows: T,
  from: number,
  { cells, outputs }: Stored<T>,
): T {
  const height = cells.length / outputs;
  const count = rows.length / height;
  for (let p = 0; p < height; p++) {
    const at = p * outputs + from;
    for (let n = 0; n < count; n++) rows[n * height + p] = cells[at + n]!;
  }
  return rows;
}

/** f32[N, G] scales of the outputs `[from, to)`, of a stored part [G, O]. */
export async function readScaleColumns(
  { name, dtype, shape }: TensorInfo,
  read: ReadTensor,
  { from, to }: Rows,
): Promise<Float32Array<ArrayBuffer>> {
  const [groups = 1, outputs = 1] = shape;
  const bytes = await readPart({ name, dtype, shape }, read);
  const count = (to - from) * groups;
  const rows = dtype === "f32"
    ? takeColumns(new Uint32Array(count), from, { cells: wordsOf(bytes), outputs })
    : takeColumns(new Uint16Array(count), from, { cells: halvesOf(bytes), outputs });
  return widened(bytesOf(rows), dtype as "f32" | "f16" | "bf16");
}
