/**
 * For linears that are some rows of a stored matrix: their outputs are some columns of its product.
 */
import wgsl from "../../shaders/gather_columns.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { someRows } from "../sampling.ts";

/** y[t, n] = x[t, columns[n]]; every column is below C. */
export const gatherColumns = defineOp({
  name: "gather_columns",
  inputs: { x: "f32[T, C]", columns: "u32[N]" },
  outputs: { y: "f32[T, N]" },
  wgsl,
  workgroups: ({ T = 0, N = 0 }) => spread(T * N),
  sampling: {
    part: ({ T = 0, C = 0 }, _scalars, draw) => ({
      ranges: { T: someRows(T, draw, { width: C }) },
    }),
  },
  reference({ x, columns, y }, { T = 0, C = 0, N = 0 }) {
    for (let t = 0; t < T; t++) {
      for (let n = 0; n < N; n++) y![t * N + n] = x![t * C + columns![n]!]!;
    }
  },
});
