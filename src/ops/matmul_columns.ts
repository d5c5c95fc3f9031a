/** For LLM.int8(): the product of the outlier columns, added to the rest. */
import wgsl from "../../shaders/matmul_columns.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { checkColumns } from "./matmul_nt.ts";

/**
 * Adds the product over a few columns in float: y[t, column + r] += Σ x[t, j]·w[r, j]·absmax[r]/127
 * for j in columns[1 … columns[0]], the list of `outlier_columns`.
 */
export const matmulColumns = defineOp({
  name: "matmul_columns",
  inputs: { x: "f32[T, C]", columns: "u32[D]", w: "i8[R, C]", absmax: "f32[R]" },
  outputs: { y: "f32[T, Y]" },
  scalars: { column: "u32" },
  wgsl,
  workgroups: ({ T = 0, R = 0 }) => spread(T * R),
  check(dims, scalars) {
    const { C = 0, D = 0 } = dims;
    if (D !== C + 1) return `columns must have D = C + 1 = ${C + 1} places, got ${D}`;
    return checkColumns(dims, scalars);
  },
  reference({ x, columns, w, absmax, y }, { T = 0, R = 0, C = 0, Y = 0 }, { column = 0 }) {
    for (let t = 0; t < T; t++) {
      for (let r = 0; r < R; r++) {
        let sum = 0;
        for (let k = 1; k <= columns![0]!; k++) {
          const j = columns![k]!;
          sum += x![t * C + j]! * (w![r * C + j]! * absmax![r]! / 127);
        }
        y![t * Y + column + r]! += sum;
      }
    }
  },
});
