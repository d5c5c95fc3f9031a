/** The last step of rounding to an integer grid, and the one that GPTQ and AWQ end with too. */
import wgsl from "../../shaders/quantize_int.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import {
  checkGrid,
  checkTiles,
  codeOf,
  codeRange,
  nearHalf,
  quotients,
  tiledRows,
  tileOf,
} from "./grid.ts";

/** Codes of a weight: clamp(rn(w/scale) + zero), with the scale and zero point of the tile. */
export const quantizeInt = defineOp({
  name: "quantize_int",
  inputs: { w: "f32|bf16|f16[R, C]", scale: "f32[A, B]", zero: "i8[A, B]" },
  outputs: { codes: "i8[R, C]" },
  scalars: { bits: "u32", grid: "u32", tile_rows: "u32", tile_columns: "u32" },
  wgsl,
  workgroups: ({ R = 0, C = 0 }) => spread(Math.ceil(R * C / 4)),
  check(dims, scalars) {
    const verdict = checkGrid(scalars);
    return verdict === true ? checkTiles(dims, scalars) : verdict;
  },
  sampling: {
    part: tiledRows,
    ties: { codes: { near: (view) => Array.from(quotients(view), nearHalf) } },
  },
  reference({ w, scale, zero, codes }, dims, scalars) {
    const { R = 0, C = 0 } = dims;
    const range = codeRange(scalars);
    for (let r = 0; r < R; r++) {
      for (let c = 0; c < C; c++) {
        const tile = tileOf(r, c, dims, scalars);
        const params = { scale: scale![tile]!, zero: zero![tile]!, ...range };
        codes![r * C + c] = codeOf(w![r * C + c]!, params);
      }
    }
  },
});
