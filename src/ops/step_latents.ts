/** A step of training codes and scales. */
import wgsl from "../../shaders/step_latents.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { checkGrid, checkTiles, clamp, codeRange, tileOf } from "./grid.ts";

/**
 * Of weights s·n, n = clamp(rn(u) + zero) − zero, a step against the direction d of the gradient by
 * them: u −= rate·d·sign(s), because rounding counts as u itself (the straight-through estimator),
 * kept where its code is not clipped by more than half a step.
 */
export const stepLatents = defineOp({
  name: "step_latents",
  inputs: { d: "f32[R, C]", scale: "f32[A, B]", zero: "i8[A, B]" },
  outputs: { u: "f32[R, C]" },
  scalars: { bits: "u32", grid: "u32", tile_rows: "u32", tile_columns: "u32", rate: "f32" },
  wgsl,
  workgroups: ({ R = 0, C = 0 }) => spread(R * C),
  check(dims, scalars) {
    const { rate = 0 } = scalars;
    if (!(rate >= 0)) return `the rate must be at least 0, got ${rate}`;
    const verdict = checkGrid(scalars);
    return verdict === true ? checkTiles(dims, scalars) : verdict;
  },
  reference({ d, scale, zero, u }, dims, scalars) {
    const { R = 0, C = 0 } = dims;
    const { rate = 0 } = scalars;
    const { low, high } = codeRange(scalars);
    for (let r = 0; r < R; r++) {
      for (let c = 0; c < C; c++) {
        const [at, tile] = [r * C + c, tileOf(r, c, dims, scalars)];
        const moved = Math.fround(u![at]! - rate * d![at]! * Math.sign(scale![tile]!));
        u![at] = clamp(moved, low - zero![tile]! - 0.5, high - zero![tile]! + 0.5);
      }
    }
  },
});
