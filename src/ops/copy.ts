/**
 * For factoring: a block of columns taken out of a matrix and put back, and the other half of a
 * symmetric one.
 */
import wgsl from "../../shaders/copy.wgsl" with { type: "text" };
import type { Backend } from "../backend.ts";
import { defineOp, spread } from "../op.ts";
import type { View } from "./gemm.ts";

/**
 * to[i, j] = from[i, j], or from[j, i] if `transposed`, on rectangles of rows × columns elements
 * that begin at a row and a column.
 */
export const copy = defineOp({
  name: "copy",
  inputs: { from: "f32[A, D]" },
  outputs: { to: "f32[B, E]" },
  scalars: {
    rows: "u32",
    columns: "u32",
    from_row: "u32",
    from_column: "u32",
    to_row: "u32",
    to_column: "u32",
    transposed: "u32",
  },
  wgsl,
  workgroups: (_dims, { rows = 0, columns = 0 }) => spread(rows * columns),
  check({ A = 0, D = 0, B = 0, E = 0 }, scalars) {
    const { rows = 0, columns = 0, from_row = 0, from_column = 0, to_row = 0, to_column = 0 } =
      scalars;
    const [height, width] = scalars.transposed ? [columns, rows] : [rows, columns];
    const fits = from_row + height <= A && from_column + width <= D && to_row + rows <= B &&
      to_column + columns <= E;
    return fits ||
      `${rows}×${columns} elements from [${from_row}, ${from_column}] of ${A}×${D} do not fit at [${to_row}, ${to_column}] of ${B}×${E}`;
  },
  reference({ from, to }, { D = 0, E = 0 }, scalars) {
    const { rows = 0, columns = 0, from_row = 0, from_column = 0, to_row = 0, to_column = 0 } =
      scalars;
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < columns; j++) {
        const [r, c] = scalars.transposed ? [j, i] : [i, j];
        to![(to_row + i) * E + to_column + j] = from![(from_row + r) * D + from_column + c]!;
      }
    }
  },
});

/**
 * Queue to[i, j] = from[i, j] on rectangles of rows × columns; see {@linkcode copy}. What is read
 * `transposed` lies as columns × rows.
 */
export function copyRectangle(
  backend: Backend,
  { from, to }: { readonly from: View; readonly to: Omit<View, "transposed"> },
  { rows, columns }: { readonly rows: number; readonly columns: number },
): void {
  backend.run(copy, { from: from.tensor, to: to.tensor }, {
    rows,
    columns,
    from_row: from.row ?? 0,
    from_column: from.column ?? 0,
    to_row: to.row ?? 0,
    to_column: to.column ?? 0,
    transposed: from.transposed ? 1 : 0,
  });
}
