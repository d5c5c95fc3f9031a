/**
 * Perplexity by the GPTQ protocol (arXiv 2210.17323, its reference code): the text is one token
 * stream, cut into windows that do not overlap, the tail dropped; exp of the mean negative
 * log-likelihood of every token but the first of each window.
 */
import type { Evaluator } from "../evaluator.ts";

/**
 * exp(mean −log q(label)), and that mean in nats per token; the original's beside them when two
 * models ran.
 */
export const perplexity: Evaluator = {
  name: "perplexity",
  summary: "exp of the mean negative log-likelihood per token (GPTQ protocol)",
  paired: false,
  score({ originalNll, quantizedNll }) {
    const nll = mean(quantizedNll);
    if (originalNll === quantizedNll) return { perplexity: Math.exp(nll), nll };
    const before = mean(originalNll);
    return {
      perplexity: Math.exp(nll),
      nll,
      original_perplexity: Math.exp(before),
      original_nll: before,
    };
  },
};

/**
 * The arithmetic mean, in float64.
 *
 * @throws {RangeError} there are no values.
 */
export function mean(values: Float64Array): number {
  if (values.length === 0) throw new RangeError("Cannot take the mean: no token was scored.");
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
