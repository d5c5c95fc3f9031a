/** The second step of rounding to nearest: from the range of a tile to its scale and zero point. */
import wgsl from "../../shaders/scale_params.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { checkGrid, scaleOf } from "./grid.ts";

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
  reference({ low, high, scale, zero }, { A = 0, B = 0 }, scalars) {
    for (let tile = 0; tile < A * B; tile++) {
      const params = scaleOf(low![tile]!, high![tile]!, scalars);
      scale![tile] = params.scale;
      zero![tile] = params.zero;
    }
  },
});
