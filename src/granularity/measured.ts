/** What was measured of granularities, as data. */

/** One granularity on a model. */
export interface GranularityRow {
  /** Which weights share a scale: `groups of 64`. */
  readonly name: string;
  /** Bits a weight: codes, and scales of 16 bits (32 where the model is in float32). */
  readonly bits: number;
  /** The mean of all weights' signal-to-noise ratios, in decibels. */
  readonly sqnrDb: number;
  readonly perplexity: number;
  /** From the original, in nats a token, and its standard error. */
  readonly divergence: number;
  readonly divergenceError: number;
  /** That choosing scales and codes took; of all weights. */
  readonly seconds: number;
}

/** What was measured. */
export interface Granularities {
  readonly model: string;
  /** Of the codes. */
  readonly bits: number;
  /** Perplexity of the original. */
  readonly perplexity: number;
  readonly rows: readonly GranularityRow[];
  /** Those that the model's weights cannot have, and why. */
  readonly refused: readonly { readonly name: string; readonly why: string }[];
}
