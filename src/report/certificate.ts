/**
 * A certificate: how far a quantized model may be from its original, and that it is not farther, to
 * a confidence, measured on windows of a text that had no part in how it was made. Pure.
 *
 * Of the windows that are drawn a quarter steers a search for the recipe (`steers`), and the others
 * judge what it came to. What is judged was chosen without them, and so the limits hold with the
 * confidence that is said if it is shared out among all tries (Bonferroni). Where two bounds are
 * set, a model is accepted if it keeps both, which needs no further correction: it is wrongly
 * accepted only if a limit fails on the bound that it breaks.
 */
import type { TokenScores } from "../evaluator.ts";
import { upperLimit, windowMeans } from "../evaluators/limits.ts";
import { mean } from "../evaluators/perplexity.ts";
import type { Limit, Quantity } from "../report.ts";
import type { Certificate } from "./record.ts";

/** One-sided confidence of a certificate's limits. */
export const CONFIDENCE = 0.95;

/** The fewest windows that may judge. */
export const FEWEST_WINDOWS = 16;

/** Whether a window, by its number among those that are drawn, steers the search. */
export function steers(window: number): boolean {
  return window % 4 === 0;
}

/** One or both. */
export interface Bounds {
  /** Of the mean KL divergence from the original, nats per token. */
  readonly kl_divergence?: number;
  /** Of perplexity over the original's perplexity, less 1. */
  readonly perplexity_increase?: number;
}

/** Numbers of each window, as far as bounds are about them. */
export type WindowScores = Readonly<Record<Quantity, Float64Array>>;

/** How a quantity is judged: by the mean of what its windows have, on its own scale. */
interface Judged {
  /** Of each window. */
  of(tokens: TokenScores): Float64Array;
  /** From the mean of that to the quantity. */
  readonly from: (mean: number) => number;
  readonly to: (quantity: number) => number;
  readonly name: string;
  /** What it is shown in, and so many of which it is one. */
  readonly unit: string;
  readonly scale: number;
}

const same = (value: number) => value;

const JUDGED: Readonly<Record<Quantity, Judged>> = {
  kl_divergence: {
    of: ({ divergence, perWindow }) => windowMeans(divergence, perWindow),
    from: same,
    to: same,
    name: "KL divergence from the original",
    unit: "nats per token",
    scale: 1,
  },
  // Paired: the windows' own difficulty is in both, and cancels.
  perplexity_increase: {
    of: ({ originalNll, quantizedNll, perWindow }) =>
      windowMeans(quantizedNll.map((nll, i) => nll - originalNll[i]!), perWindow),
    from: Math.expm1,
    to: Math.log1p,
    name: "increase of perplexity",
    unit: "%",
    scale: 100,
  },
};

/** What is measured of each window. */
export function windowScores(tokens: TokenScores): WindowScores {
  return {
    kl_divergence: JUDGED.kl_divergence.of(tokens),
    perplexity_increase: JUDGED.perplexity_increase.of(tokens),
  };
}

/** The scores of some windows. */
export function ofWindows(scores: WindowScores, take: (window: number) => boolean): WindowScores {
  const taken = (values: Float64Array) => values.filter((_, window) => take(window));
  return {
    kl_divergence: taken(scores.kl_divergence),
    perplexity_increase: taken(scores.perplexity_increase),
  };
}

/** How limits are to be told. */
export interface Judging {
  readonly tries: number;
  readonly confidence?: number;
  /** For so many windows like these; for as many as there are, if not given. */
  readonly windows?: number;
}

/** The limits of what is bounded. */
export function limitsOf(
  scores: WindowScores,
  bounds: Bounds,
  { tries, confidence = CONFIDENCE, windows: size }: Judging,
): Limit[] {
  return Object.entries(bounds).map(([name, bound]: [string, number]) => {
    const quantity = name as Quantity;
    const { from } = JUDGED[quantity];
    const samples = scores[quantity];
    const limit = from(
      upperLimit(samples, { confidence, tries, ...(size === undefined ? {} : { size }) }),
    );
    return { quantity, bound, measured: from(mean(samples)), limit, holds: limit < bound };
  });
}

/**
 * How much of its bound a model uses up, of the one that it is nearest to: below 1 it keeps all.
 */
export function useOf(limits: readonly Limit[]): number {
  const uses = limits.map(({ quantity, limit, bound }) => {
    const { to } = JUDGED[quantity];
    return to(limit) / to(bound);
  });
  // What cannot be measured keeps no bound.
  return uses.some(Number.isNaN) ? Infinity : Math.max(...uses);
}

/** What judging windows certify. */
export function certificateOf(
  tokens: TokenScores,
  { bounds, ...rest }:
    & { readonly bounds: Bounds }
    & Pick<
      Certificate,
      "tries" | "text" | "steering_windows"
    >,
): Certificate {
  const limits = limitsOf(windowScores(tokens), bounds, rest);
  return {
    holds: limits.every(({ holds }) => holds),
    limits,
    confidence: CONFIDENCE,
    ...rest,
  };
}

/** Bounds in words: `KL divergence from the original below 0.05 nats per token`. */
export function boundsSentence(bounds: Bounds): string {
  return Object.entries(bounds).map(([quantity, bound]: [string, number]) => {
    const { name, unit, scale } = JUDGED[quantity as Quantity];
    return `${name} below ${Number((scale * bound).toPrecision(12))} ${unit}`;
  }).join(" and ");
}

/** A limit's name and numbers as they are shown. */
export function limitWords(
  { quantity, bound, measured, limit }: Limit,
): Readonly<Record<"name" | "measured" | "limit" | "bound" | "unit", string>> {
  const { name, unit, scale } = JUDGED[quantity];
  const shown = (value: number, digits: number) =>
    String(Number((scale * value).toPrecision(digits)));
  return {
    name,
    measured: shown(measured, 4),
    limit: shown(limit, 4),
    // As it was said, but for what binary fractions add.
    bound: shown(bound, 12),
    unit,
  };
}

/** A limit in words: `KL divergence from the original 0.0441, at most 0.0469 nats per token: below 0.05`. */
export function limitSentence(found: Limit): string {
  const { name, measured, limit, bound, unit } = limitWords(found);
  return `${name} ${measured}, at most ${limit} ${unit}: ` +
    `${found.holds ? "below" : "not below"} ${bound}`;
}

/** How sure the limits are, in words. */
export function confidenceSentence(
  { confidence, tries, text: { windows, seq_len } }: Pick<
    Certificate,
    "confidence" | "tries" | "text"
  >,
): string {
  return `one-sided ${100 * confidence} % confidence, Student's t over ${
    windows.toLocaleString("en-US")
  } windows of ${seq_len.toLocaleString("en-US")} tokens, ` +
    (tries === 1 ? "one try" : `corrected for ${tries} tries`);
}
