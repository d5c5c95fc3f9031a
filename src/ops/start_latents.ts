/** Where training begins: latents, of which codes are the nearest, in units of the scale. */
import wgsl from "../../shaders/start_latents.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { checkGrid, checkTiles, codeRange, tileOf } from "./grid.ts";

/** How far from the middle of its code's cell a latent begins at most; the cell ends at 0.5. */
const REACH = 0.49;

/**
 * u = n + d for the code n + zero that was chosen for w and what w/s lies beside it: d = w/s − n
 * inside of the cell of n, and beyond it the nearer to 0 the farther it is, for where a code is not
 * the nearest w says little; but where there is no code beyond, u is at the end of its range.
 * Rounded and clamped, u is n. Weights must be finite.
 */
export const startLatents = defineOp({
  name: "start_latents",
  inputs: { w: "f32[R, C]", codes: "i8[R, C]", scale: "f32[A, B]", zero: "i8[A, B]" },
  outputs: { u: "f32[R, C]" },
  scalars: { bits: "u32", grid: "u32", tile_rows: "u32", tile_columns: "u32" },
  wgsl,
  workgroups: ({ R = 0, C = 0 }) => spread(R * C),
  check(dims, scalars) {
    const verdict = checkGrid(scalars);
    return verdict === true ? checkTiles(dims, scalars) : verdict;
  },
  reference({ w, codes, scale, zero, u }, dims, scalars) {
    const { R = 0, C = 0 } = dims;
    const { low, high } = codeRange(scalars);
    for (let r = 0; r < R; r++) {
      for (let c = 0; c < C; c++) {
        const [at, tile] = [r * C + c, tileOf(r, c, dims, scalars)];
        const level = codes![at]! - zero![tile]!;
        const rest = w![at]! / scale![tile]! - level;
        const far = Math.abs(rest);
        const d = codes![at] === (rest > 0 ? high : low)
          ? Math.min(far, 0.5)
          : Math.max(0, Math.min(far, 2 * REACH - far));
        u![at] = level + Math.sign(rest) * d;
      }
    }
  },
});
