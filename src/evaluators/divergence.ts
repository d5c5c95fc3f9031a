/**
 * Kullback-Leibler divergence of the quantized model from the original, over the full vocabulary,
 * at every predicted token.
 */
import type { Evaluator } from "../evaluator.ts";
import { mean } from "./perplexity.ts";

/**
 * KL(p ‖ q) in nats per token: mean, its standard error (sample standard deviation / √n, tokens
 * taken as independent), median and percentiles (linear interpolation between order statistics, as
 * numpy's default), maximum; and how often, in percent, both models rank the same token first.
 */
export const divergence: Evaluator = {
  name: "divergence",
  summary:
    "KL(original ‖ quantized) per token in nats, and how often both rank the same token first",
  paired: true,
  score({ divergence: values, sameTop }) {
    const center = mean(values);
    const spread = values.reduce((sum, value) => sum + (value - center) ** 2, 0);
    const sorted = values.toSorted();
    return {
      mean: center,
      standard_error: values.length > 1
        ? Math.sqrt(spread / (values.length - 1) / values.length)
        : NaN,
      median: quantile(sorted, 0.5),
      p90: quantile(sorted, 0.9),
      p95: quantile(sorted, 0.95),
      p99: quantile(sorted, 0.99),
      p99_9: quantile(sorted, 0.999),
      max: sorted[sorted.length - 1]!,
      same_top_percent: 100 * sameTop.reduce((sum, same) => sum + same, 0) / sameTop.length,
    };
  },
};

/** The value below which a share `at` of sorted values lies, interpolated linearly. */
function quantile(sorted: Float64Array, at: number): number {
  const place = at * (sorted.length - 1);
  const below = Math.floor(place);
  const low = sorted[below]!;
  const high = sorted[Math.ceil(place)]!;
  // No arithmetic where none is needed: infinities stay what they are.
  return low === high ? low : low + (high - low) * (place - below);
}
