/**
 * Earth mover's distance (Wasserstein-1) between the distributions of w and ŵ. It knows nothing of which value became which, so it is
 * never above mean |w − ŵ|: a check of the distribution, not of the fit.
 */
import type { Metric } from "../metric.ts";

/**
 * ∫ |F(x) − F′(x)| dx with F, F′ the distribution functions, from histograms over [−range, range]: Σ |C_k − C′_k| · width / count with
 * C the cumulated counts. Taking every value as its bin's middle moves it by half a width at most, so the result is within one
 * bin width (2·range / bins; range is at most twice the largest value) of the exact distance.
 */
export const emd: Metric = {
  name: "emd",
  unit: "",
  summary: "earth mover's distance of the two distributions, within 1/1024 of the largest value",
  compute({ count, original, quantized, range }) {
    const width = 2 * range / original.length;
    let ahead = 0;
    let moved = 0;
    original.forEach((n, bin) => {
      ahead += n - quantized[bin]!;
      moved += Math.abs(ahead);
    });
    return count === 0 ? 0 : moved * width / count;
  },
};
