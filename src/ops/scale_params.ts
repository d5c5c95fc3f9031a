/** The second step of rounding to nearest: from the range of a tile to its scale and zero point. */
import wgsl from "../../shaders/scale_params.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { checkGrid, nearHalf, scaleBound, scaleOf } from "./grid.ts";
import { someRows } from "../sampling.ts";

/**
 * Scale and zero point of every tile from its range (see `scaleOf`): the scale is rounded to
 * `scale_dtype` (0 f32, 1 bf16, 2 f16) before anything uses it, is 1 for a tile of zeros, and +∞
 * for a tile that is not finite.
 */
export const scaleParams = defineOp({
  name: "scale_params",
  inputs: { low: "f32[A, B]", high: "f32[A, B]" },
  outputs: { scale: "f32[A, B]", zero: "i8[A, B]" },
  scalars: { bits: "u32", grid: "u32", scale_dtype: "u32" },
  wgsl,
  workgroups: ({ A = 0, B = 0 }) => spread(Math.ceil(A * B / 4)),
  check: (_dims, scalars) => checkGrid(scalars),
  sampling: {
    part: ({ A = 0, B = 0 }, _scalars, draw) => ({
      ranges: { A: someRows(A, draw, { width: B }) },
    }),
    bounds: { scale: scaleBound },
    // A zero point whose quotient is near a tie may be the next one.
    ties: {
      zero: {
        near: ({ before: { low }, want: { scale } }) =>
          Array.from(low!, (from, i) => nearHalf(Math.min(0, from) / scale![i]!)),
      },
    },
  },
  reference({ low, high, scale, zero }, { A = 0, B = 0 }, scalars) {
    for (let tile = 0; tile < A * B; tile++) {
      const params = scaleOf(low![tile]!, high![tile]!, scalars);
      scale![tile] = params.scale;
      zero![tile] = params.zero;
    }
  },
});
