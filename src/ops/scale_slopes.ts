/** Gradients by scales, from those by weights. */
import wgsl from "../../shaders/scale_slopes.wgsl" with { type: "text" };
import { defineOp, fold } from "../op.ts";
import { checkTiles } from "./grid.ts";

/**
 * slope = Σ g·(n − zero) over each tile, for the gradient g by weights s·(n − zero), which are
 * linear in their scale. Tiles must lie within rows.
 */
export const scaleSlopes = defineOp({
  name: "scale_slopes",
  inputs: { g: "f32[R, C]", codes: "i8[R, C]", zero: "i8[A, B]" },
  outputs: { slope: "f32[A, B]" },
  scalars: { tile_rows: "u32", tile_columns: "u32" },
  wgsl,
  workgroups: ({ A = 0, B = 0 }) => fold(A * B),
  check(dims, scalars) {
    const { tile_rows } = scalars;
    if (tile_rows !== 1) return `tiles must have one row, got ${tile_rows}`;
    return checkTiles(dims, scalars);
  },
  reference({ g, codes, zero, slope }, { R = 0, C = 0, B = 0 }, { tile_columns = 1 }) {
    for (let r = 0; r < R; r++) {
      for (let b = 0; b < B; b++) {
        let sum = 0;
        for (let c = b * tile_columns; c < Math.min(C, (b + 1) * tile_columns); c++) {
          sum += g![r * C + c]! * (codes![r * C + c]! - zero![r * B + b]!);
        }
        slope![r * B + b] = sum;
      }
    }
  },
});
