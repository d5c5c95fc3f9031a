/** For metrics, for the quantized model's forward pass, and for checkpoints read back, in fp8. */
import wgsl from "../../shaders/dequantize_fp8.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { checkTiles, tiledRows, tileOf } from "./grid.ts";

/** The values of E4M3 codes: code·scale of the tile. */
export const dequantizeFp8 = defineOp({
  name: "dequantize_fp8",
  inputs: { codes: "f8_e4m3[R, C]", scale: "f32[A, B]" },
  outputs: { w: "f32[R, C]" },
  scalars: { tile_rows: "u32", tile_columns: "u32" },
  wgsl,
  workgroups: ({ R = 0, C = 0 }) => spread(R * C),
  check: checkTiles,
  sampling: { part: tiledRows },
  reference({ codes, scale, w }, dims, scalars) {
    const { R = 0, C = 0 } = dims;
    for (let r = 0; r < R; r++) {
      for (let c = 0; c < C; c++) {
        w![r * C + c] = Math.fround(codes![r * C + c]! * scale![tileOf(r, c, dims, scalars)]!);
      }
    }
  },
});
