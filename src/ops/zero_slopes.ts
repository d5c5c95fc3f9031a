/** Gradients by zero points, from those by weights. */
import wgsl from "../../shaders/zero_slopes.wgsl" with { type: "text" };
import { defineOp } from "../op.ts";
import { checkGrid, codeRange } from "./grid.ts";
import { scaleSlopes } from "./scale_slopes.ts";

/**
 * slope = −s·Σ g over the clipped weights of each tile, for the gradient g by weights s·n, n =
 * clamp(rn(u) + zero) − zero: where nothing is clipped zero cancels out (LSQ+, Bhalgat et al.,
 * arXiv 2004.09576, eq. 5). Clipped are those whose latent u is at the end of its range, see
 * `step_latents`. Tiles must lie within rows.
 */
export const zeroSlopes = defineOp({
  name: "zero_slopes",
  inputs: { g: "f32[R, C]", u: "f32[R, C]", scale: "f32[A, B]", zero: "i8[A, B]" },
  outputs: { slope: "f32[A, B]" },
  scalars: { bits: "u32", grid: "u32", tile_rows: "u32", tile_columns: "u32" },
  wgsl,
  workgroups: scaleSlopes.workgroups,
  check(dims, scalars) {
    const verdict = checkGrid(scalars);
    return verdict === true ? scaleSlopes.check(dims, scalars) : verdict;
  },
  reference({ g, u, scale, zero, slope }, { R = 0, C = 0, B = 0 }, scalars) {
    const { tile_columns = 1 } = scalars;
    const { low, high } = codeRange(scalars);
    for (let r = 0; r < R; r++) {
      for (let b = 0; b < B; b++) {
        const tile = r * B + b;
        const [least, most] = [low - zero![tile]! - 0.5, high - zero![tile]! + 0.5];
        let sum = 0;
        for (let c = b * tile_columns; c < Math.min(C, (b + 1) * tile_columns); c++) {
          const latent = u![r * C + c]!;
          if (latent <= least || latent >= most) sum += g![r * C + c]!;
        }
        slope![tile] = -scale![tile]! * sum;
      }
    }
  },
});
