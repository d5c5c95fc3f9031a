/** The first of the steps that round a weight to nearest: what range each scale has to cover. */
import wgsl from "../../shaders/tile_range.wgsl" with { type: "text" };
import { defineOp, fold, spread } from "../op.ts";
import { checkTiles, eachTile, rangeOf, wholeTiles } from "./grid.ts";

/** Least and greatest value of every tile; a tile with a NaN or an infinity has −∞ and +∞. */
export const tileRange = defineOp({
  name: "tile_range",
  inputs: { w: "f32|bf16|f16[R, C]" },
  outputs: { low: "f32[A, B]", high: "f32[A, B]" },
  scalars: { tile_rows: "u32", tile_columns: "u32" },
  wgsl,
  workgroups: ({ R = 0, C = 0, A = 0, B = 0 }, { tile_rows = 0, tile_columns = 0 }) =>
    Math.min(tile_rows, R) * Math.min(tile_columns, C) > 1024 ? fold(A * B) : spread(A * B),
  check: checkTiles,
  sampling: { part: (dims, scalars, draw) => wholeTiles(dims, scalars, draw) },
  reference({ w, low, high }, dims, scalars) {
    eachTile(dims, scalars, (tile, elements) => {
      const range = rangeOf(w!, elements);
      low![tile] = range.low;
      high![tile] = range.high;
    });
  },
});
