/** For the metrics: distributions of weights before and after. */
import wgsl from "../../shaders/histogram.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { clamp } from "./grid.ts";

/**
 * Adds to the counts of K equal bins between low and high; what lies outside goes to the first or
 * last bin, NaN nowhere.
 */
export const histogram = defineOp({
  name: "histogram",
  inputs: { x: "f32|bf16|f16[N]" },
  outputs: { counts: "u32[K]" },
  scalars: { low: "f32", high: "f32" },
  wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  check: (_dims, { low = 0, high = 0 }) =>
    low < high || `low must be below high, got ${low} and ${high}`,
  reference({ x, counts }, { N = 0, K = 0 }, { low = 0, high = 0 }) {
    const width = Math.fround(high - low);
    for (let i = 0; i < N; i++) {
      const place = Math.fround(Math.fround(Math.fround(x![i]! - low) / width) * K);
      if (!Number.isNaN(place)) counts![clamp(Math.floor(place), 0, K - 1)]! += 1;
    }
  },
});
