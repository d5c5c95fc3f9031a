/** Numbers by channel, on the host and on the device. */
import type { Scope, Tensor } from "../backend.ts";
import { copyRectangle } from "../ops/copy.ts";
import { permuteColumns } from "../ops/permute_columns.ts";

/** f32[N] or u32[N] on the device. */
export function upload(values: Float32Array | Uint32Array, scope: Scope): Tensor {
  const tensor = scope.alloc(values instanceof Uint32Array ? "u32" : "f32", [values.length]);
  scope.backend.write(tensor, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  return tensor;
}

/** Σ x² of each channel after it was divided by its scale. */
export function scaledSquares(
  squares: Float32Array,
  scales: Float32Array | undefined,
): Float32Array<ArrayBuffer> {
  return Float32Array.from(squares, (square, c) => square / (scales ? scales[c]! ** 2 : 1));
}

/** The order 0, 1, … */
export function natural(count: number): Uint32Array<ArrayBuffer> {
  return Uint32Array.from({ length: count }, (_, i) => i);
}

/** w·diag(factor), f32[R, C] in `scope`. */
export function scaleColumns(w: Tensor, factor: Float32Array | Tensor, scope: Scope): Tensor {
  const y = scope.alloc("f32", w.shape);
  const [, columns = 0] = w.shape;
  using scratch = scope.backend.scope();
  const order = upload(natural(columns), scratch);
  const given = factor instanceof Float32Array ? upload(factor, scratch) : factor;
  scope.backend.run(permuteColumns, { w, order, factor: given, y });
  return y;
}

/** At most `most` of `rows` rows, evenly spread. */
export function sampleRows(rows: number, most: number): Uint32Array<ArrayBuffer> {
  const count = Math.min(most, rows);
  return Uint32Array.from({ length: count }, (_, i) => Math.floor((i + 0.5) * rows / count));
}

/** Matrices one below the other, f32[Σ R, C] in `scope`; the one itself where there is one. */
export function stackRows(parts: readonly Tensor[], scope: Scope): Tensor {
  if (parts.length === 1) return parts[0]!;
  const [, columns = 0] = parts[0]!.shape;
  const rows = parts.map(({ shape: [rows = 0] }) => rows);
  const whole = scope.alloc("f32", [rows.reduce((a, b) => a + b), columns]);
  parts.reduce((first, part, i) => {
    const place = { from: { tensor: part }, to: { tensor: whole, row: first } };
    copyRectangle(scope.backend, place, { rows: rows[i]!, columns });
    return first + rows[i]!;
  }, 0);
  return whole;
}
