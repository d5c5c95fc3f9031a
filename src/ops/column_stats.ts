/** For observers: what is known of each channel of a linear's input. */
import wgsl from "../../shaders/column_stats.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { type Seen, stretch, U } from "../sampling.ts";

/** Rows of the statistics: least value, greatest value, Σ|x|. */
export const COLUMN_STATS = 3;

/** Extremes are exact; a sum of T + 1 magnitudes is within as many roundings. */
function statsBound({ before: { x, stats }, dims: { T = 0, C = 0 } }: Seen): Float64Array {
  return Float64Array.from({ length: COLUMN_STATS * C }, (_, i) => {
    if (i < 2 * C) return 0;
    let size = Math.abs(stats![i]!);
    for (let row = 0; row < T; row++) size += Math.abs(x![row * C + i - 2 * C]!);
    return (T + 1) * U * size;
  });
}

/**
 * Extends statistics of columns by the rows of x: 0 the least value, 1 the greatest, 2 the sum of
 * magnitudes.
 */
export const columnStats = defineOp({
  name: "column_stats",
  inputs: { x: "f32[T, C]" },
  outputs: { stats: "f32[S, C]" },
  wgsl,
  workgroups: ({ C = 0 }) => spread(C),
  check: ({ S = 0 }) => S === COLUMN_STATS || `the statistics have S = 3 rows, got ${S}`,
  sampling: {
    part: ({ C = 0 }, _scalars, draw) => ({ ranges: { C: stretch(C, draw, { most: 4 }) } }),
    updates: true,
    bounds: { stats: statsBound },
  },
  reference({ x, stats }, { T = 0, C = 0 }) {
    for (let c = 0; c < C; c++) {
      let sum = 0;
      for (let t = 0; t < T; t++) {
        const value = x![t * C + c]!;
        stats![c] = Math.min(stats![c]!, value);
        stats![C + c] = Math.max(stats![C + c]!, value);
        sum += Math.abs(value);
      }
      stats![2 * C + c]! += sum;
    }
  },
});
