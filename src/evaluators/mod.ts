/**
 * The evaluators, and how token scores are gathered. To add an evaluator: a file beside this, and a
 * row here.
 */
import type { Evaluator } from "../evaluator.ts";
import { divergence } from "./divergence.ts";
import { perplexity } from "./perplexity.ts";

export { type HeadJob, type HeadSlice, scoreHead } from "./head.ts";

/** Every evaluator, in the order its scores are shown. */
export const EVALUATORS: readonly Evaluator[] = [perplexity, divergence];
