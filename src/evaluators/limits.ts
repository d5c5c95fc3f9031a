/**
 * What samples tell of what they were drawn from: means of windows, and the upper confidence limit
 * of a mean by Student's t, corrected for skewness. Pure.
 *
 * A window's number is a mean over its tokens, and yet divergences of windows lean to the right
 * (skewness 1 for windows of 64 tokens), where t alone promises too much: of limits that are to
 * hold for 95 % of texts of 24 windows, 92 % do, and 94 % with the correction.
 */
import { mean } from "./perplexity.ts";

/** The mean of each window's tokens: values come window after window, `perWindow` of each. */
export function windowMeans(values: Float64Array, perWindow: number): Float64Array {
  return Float64Array.from(
    { length: values.length / perWindow },
    (_, i) => mean(values.subarray(i * perWindow, (i + 1) * perWindow)),
  );
}

/**
 * P(T ≤ t) of Student's t with a whole number ν ≥ 1 of degrees of freedom, t = √ν · tan θ, θ in
 * [0, π/2): Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4, which are
 * finite sums of positive terms.
 */
function studentProbability(theta: number, freedom: number): number {
  const [sine, cosine] = [Math.sin(theta), Math.cos(theta)];
  const odd = freedom % 2 === 1;
  let term = odd ? cosine : 1;
  let total = freedom === 1 ? 0 : term;
  for (let n = odd ? 2 : 1; n < freedom - 2; n += 2) {
    term *= n / (n + 1) * cosine * cosine;
    total += term;
  }
  const within = odd ? 2 / Math.PI * (theta + sine * total) : sine * total;
  return (1 + within) / 2;
}

/**
 * The t below which Student's t lies with a probability.
 *
 * @param probability From 0.5 to below 1.
 * @param freedom Degrees of freedom, a whole number of at least 1.
 * @throws {RangeError} one of them is not in its range.
 */
export function studentQuantile(probability: number, freedom: number): number {
  if (!(probability >= 0.5 && probability < 1) || !Number.isInteger(freedom) || freedom < 1) {
    throw new RangeError(
      `Cannot take the quantile of Student's t for a probability of ${probability} and ${freedom} ` +
        "degrees of freedom: it must be from 0.5 to below 1, and they a whole number of at least 1.",
    );
  }
  let [low, high] = [0, Math.PI / 2];
  for (;;) {
    const middle = (low + high) / 2;
    if (middle <= low || middle >= high) return Math.sqrt(freedom) * Math.tan(middle);
    if (studentProbability(middle, freedom) < probability) low = middle;
    else high = middle;
  }
}

/** How sure an upper limit is. */
export interface LimitOptions {
  /** One-sided: the share of samples for which all limits hold. */
  readonly confidence: number;
  /** How many such limits are to hold at once (Bonferroni); 1 if not given. */
  readonly tries?: number;
  /** The limit that so many samples like these would have; as many as there are, if not given. */
  readonly size?: number;
}

/**
 * The upper confidence limit of the mean that samples were drawn from: m + t · s / √n, s their
 * standard deviation (n − 1); where they lean to the right, t as Hall's transformation has it (On
 * the removal of skewness by transformation, J. R. Statist. Soc. B 54, 1992), which is larger.
 *
 * @throws {RangeError} there are fewer than two samples.
 */
export function upperLimit(
  samples: Float64Array,
  { confidence, tries = 1, size = samples.length }: LimitOptions,
): number {
  if (samples.length < 2) {
    throw new RangeError(`Cannot tell a limit of a mean by ${samples.length} samples: give two.`);
  }
  const center = mean(samples);
  const moment = (power: number) => mean(samples.map((value) => (value - center) ** power));
  const variance = moment(2);
  const error = Math.sqrt(variance * samples.length / (samples.length - 1) / size);
  const t = studentQuantile(1 - (1 - confidence) / tries, size - 1);
  // On the scale of t, how far samples lean: γ / √n.
  const lean = variance > 0 ? moment(3) / variance ** 1.5 / Math.sqrt(size) : 0;
  return center + Math.max(t, leaningQuantile(t, lean)) * error;
}

/**
 * The −T of which g(T) = T + a·T²/3 + a²·T³/27 + a/6 is −t: what lies below −T is as rare as what
 * lies below −t where nothing leans.
 */
function leaningQuantile(t: number, a: number): number {
  const u = a * (-t - a / 6);
  // ∛(1 + u) − 1, which for small u would cancel.
  const root = u > -0.5 ? Math.expm1(Math.log1p(u) / 3) : Math.cbrt(1 + u) - 1;
  return a === 0 ? t : -3 * root / a;
}
