/** A step of training codes and scales, by the signs of their gradients (SignSGD). */
import wgsl from "../../shaders/step_latents.wgsl" with { type: "text" };
import { roundTo } from "../number.ts";
import { defineOp, fold } from "../op.ts";
import { checkGrid, checkTiles, clamp, codeRange, SCALE_DTYPES } from "./grid.ts";

/**
 * Of weights s·n, n = clamp(rn(u) + zero) − zero, and the gradient g by them: u −= rate·sign(g·s),
 * because rounding counts as u itself (the straight-through estimator), kept where its code is not
 * clipped by more than half a step; and wide ·= 1 − scale_rate·sign(wide·Σ g·n) over each tile, for
 * weights are linear in their scale. What is stored is wide rounded to its dtype. `codes` are those
 * of u as it comes, and tiles must lie within rows.
 */
export const stepLatents = defineOp({
  name: "step_latents",
  inputs: { g: "f32[R, C]", codes: "i8[R, C]", zero: "i8[A, B]" },
  outputs: { u: "f32[R, C]", wide: "f32[A, B]", scale: "f32[A, B]" },
  scalars: {
    bits: "u32",
    grid: "u32",
    tile_rows: "u32",
    tile_columns: "u32",
    scale_dtype: "u32",
    rate: "f32",
    scale_rate: "f32",
  },
  wgsl,
  workgroups: ({ A = 0, B = 0 }) => fold(A * B),
  check(dims, scalars) {
    const { tile_rows, rate = 0, scale_rate = 0 } = scalars;
    if (tile_rows !== 1) return `tiles must have one row, got ${tile_rows}`;
    if (!(rate >= 0 && scale_rate >= 0 && scale_rate < 1)) {
      return `rates must be at least 0, that of scales below 1, got ${rate} and ${scale_rate}`;
    }
    const verdict = checkGrid(scalars);
    return verdict === true ? checkTiles(dims, scalars) : verdict;
  },
  reference({ g, codes, zero, u, wide, scale }, { R = 0, C = 0, B = 0 }, scalars) {
    const { tile_columns = 1, scale_dtype = 0, rate = 0, scale_rate = 0 } = scalars;
    const { dtype, smallest } = SCALE_DTYPES[scale_dtype]!;
    const { low, high } = codeRange(scalars);
    for (let r = 0; r < R; r++) {
      for (let b = 0; b < B; b++) {
        const tile = r * B + b;
        const [z, before] = [zero![tile]!, wide![tile]!];
        let slope = 0;
        for (let c = b * tile_columns; c < Math.min(C, (b + 1) * tile_columns); c++) {
          const at = r * C + c;
          slope += g![at]! * (codes![at]! - z);
          const step = rate * Math.sign(g![at]!) * Math.sign(before);
          u![at] = clamp(Math.fround(u![at]! - step), low - z - 0.5, high - z + 0.5);
        }
        const after = Math.fround(
          before - before * scale_rate * Math.sign(slope) * Math.sign(before),
        );
        wide![tile] = after;
        const stored = Math.max(Math.abs(roundTo(dtype, after)), smallest);
        scale![tile] = after < 0 ? -stored : stored;
      }
    }
  },
});
