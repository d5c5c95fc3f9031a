/** How far the model moved. Implementations: evaluators/, listed in evaluators/mod.ts. */

/**
 * What was measured at every predicted token, window after window. All float64 on the host, natural
 * logarithms.
 */
export interface TokenScores {
  /** Predictions per window (window length − 1). */
  readonly perWindow: number;
  /** −log p(label) of the original model. */
  readonly originalNll: Float64Array;
  /** −log q(label) of the quantized model; the same array when only one model runs. */
  readonly quantizedNll: Float64Array;
  /** KL(p ‖ q) over the full vocabulary, nats. */
  readonly divergence: Float64Array;
  /** 1 where both models rank the same token first. */
  readonly sameTop: Uint8Array;
}

/** Named numbers, in the order they are shown. */
export type Score = Readonly<Record<string, number>>;

/** Turns token scores into numbers. */
export interface Evaluator {
  readonly name: string;
  readonly summary: string;
  /** Whether it compares two models. */
  readonly paired: boolean;
  score(tokens: TokenScores): Score;
}
