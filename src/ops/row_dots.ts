/** For losses: tr(A·Bᵀ) a row at a time. */
import wgsl from "../../shaders/row_dots.wgsl" with { type: "text" };
import { defineOp, fold } from "../op.ts";

/** y[r] = Σ a[r, c]·b[r, c]. */
export const rowDots = defineOp({
  name: "row_dots",
  inputs: { a: "f32[R, C]", b: "f32[R, C]" },
  outputs: { y: "f32[R]" },
  wgsl,
  workgroups: ({ R = 0 }) => fold(R),
  reference({ a, b, y }, { R = 0, C = 0 }) {
    for (let r = 0; r < R; r++) {
      let sum = 0;
      for (let c = 0; c < C; c++) sum += a![r * C + c]! * b![r * C + c]!;
      y![r] = sum;
    }
  },
});
