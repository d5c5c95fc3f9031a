/** The last step of rounding to fp8. */
import wgsl from "../../shaders/quantize_fp8.wgsl" with { type: "text" };
import { e4m3ToF32, f32ToE4m3 } from "../number.ts";
import { defineOp, spread } from "../op.ts";
import { midpoints, nearBound } from "./codebook.ts";
import { checkTiles, quotients, tiledRows, tileOf } from "./grid.ts";

const E4M3_BOUNDS = midpoints(Array.from({ length: 127 }, (_, code) => e4m3ToF32(code)));

/** Codes of a weight in E4M3: the value nearest to w/scale, ties to even, saturating at ±448. */
export const quantizeFp8 = defineOp({
  name: "quantize_fp8",
  inputs: { w: "f32|bf16|f16[R, C]", scale: "f32[A, B]" },
  outputs: { codes: "f8_e4m3[R, C]" },
  scalars: { tile_rows: "u32", tile_columns: "u32" },
  wgsl,
  workgroups: ({ R = 0, C = 0 }) => spread(Math.ceil(R * C / 4)),
  check: checkTiles,
  sampling: {
    part: tiledRows,
    ties: {
      codes: {
        near: (view) =>
          Array.from(quotients(view), (level) => nearBound(Math.abs(level), E4M3_BOUNDS)),
      },
    },
  },
  reference({ w, scale, codes }, dims, scalars) {
    const { R = 0, C = 0 } = dims;
    for (let r = 0; r < R; r++) {
      for (let c = 0; c < C; c++) {
        const quotient = Math.fround(w![r * C + c]! / scale![tileOf(r, c, dims, scalars)]!);
        codes![r * C + c] = f32ToE4m3(quotient);
      }
    }
  },
});
