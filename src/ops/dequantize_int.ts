/** For metrics, for the quantized model's forward pass, and for checkpoints read back. */
import wgsl from "../../shaders/dequantize_int.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { checkTiles, tiledRows, tileOf } from "./grid.ts";

/** The values codes stand for: (code − zero)·scale. */
export const dequantizeInt = defineOp({
  name: "dequantize_int",
  inputs: { codes: "i8[R, C]", scale: "f32[A, B]", zero: "i8[A, B]" },
  outputs: { w: "f32[R, C]" },
  scalars: { tile_rows: "u32", tile_columns: "u32" },
  wgsl,
  workgroups: ({ R = 0, C = 0 }) => spread(R * C),
  check: checkTiles,
  sampling: { part: tiledRows },
  reference({ codes, scale, zero, w }, dims, scalars) {
    const { R = 0, C = 0 } = dims;
    for (let r = 0; r < R; r++) {
      for (let c = 0; c < C; c++) {
        const tile = tileOf(r, c, dims, scalars);
        w![r * C + c] = Math.fround((codes![r * C + c]! - zero![tile]!) * scale![tile]!);
      }
    }
  },
});
