/** For observers: what is known of each channel of a linear's input. */
import wgsl from "../../shaders/column_stats.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";

/** Rows of the statistics: least value, greatest value, Σ|x|. */
export const COLUMN_STATS = 3;

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
