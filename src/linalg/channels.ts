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

/** f32[C] for each of G equal parts of a weight's rows: f32[G, C] in `scope`. */
export function uploadParts(parts: readonly Float32Array[], scope: Scope): Tensor {
  const count = parts[0]!.length;
  const values = new Float32Array(parts.length * count);
  parts.forEach((part, i) => values.set(part, i * count));
  const tensor = scope.alloc("f32", [parts.length, count]);
  scope.backend.write(tensor, new Uint8Array(values.buffer));
  return tensor;
}

/** 1 for each of so many channels. */
export function ones(count: number): Float32Array<ArrayBuffer> {
  return new Float32Array(count).fill(1);
}

/** The order 0, 1, … */
export function natural(count: number): Uint32Array<ArrayBuffer> {
  return Uint32Array.from({ length: count }, (_, i) => i);
}

/**
 * The columns of w f32[R, C] multiplied by `factor`, f32[G, C] or f32[C] for each of G equal parts
 * of its rows: f32[R, C] in `scope`.
 */
export function scaleColumns(
  w: Tensor,
  factor: Tensor | readonly Float32Array[],
  scope: Scope,
): Tensor {
  const y = scope.alloc("f32", w.shape);
  const [, columns = 0] = w.shape;
  using scratch = scope.backend.scope();
  const order = upload(natural(columns), scratch);
  const given = "shape" in factor ? factor : uploadParts(factor, scratch);
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
