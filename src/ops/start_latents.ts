/** Where training of codes begins: latents, in units of the scale, of which codes are the nearest. */
import wgsl from "../../shaders/start_latents.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { checkTiles, clamp, tileOf } from "./grid.ts";

/** How far inside its code's cell a latent begins: half a step less this. */
export const CELL = 0.49;

/**
 * u = w/s, moved into the cell of the code that was chosen for w: clamp(w/s, n − 0.49, n + 0.49)
 * for n = code − zero, so that rounded, u is n. Weights must be finite.
 */
export const startLatents = defineOp({
  name: "start_latents",
  inputs: { w: "f32[R, C]", codes: "i8[R, C]", scale: "f32[A, B]", zero: "i8[A, B]" },
  outputs: { u: "f32[R, C]" },
  scalars: { tile_rows: "u32", tile_columns: "u32" },
  wgsl,
  workgroups: ({ R = 0, C = 0 }) => spread(R * C),
  check: checkTiles,
  reference({ w, codes, scale, zero, u }, dims, scalars) {
    const { R = 0, C = 0 } = dims;
    for (let r = 0; r < R; r++) {
      for (let c = 0; c < C; c++) {
        const [at, tile] = [r * C + c, tileOf(r, c, dims, scalars)];
        const level = codes![at]! - zero![tile]!;
        u![at] = clamp(Math.fround(w![at]! / scale![tile]!), level - CELL, level + CELL);
      }
    }
  },
});
