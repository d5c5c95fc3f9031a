/**
 * The range that a fixed scale of activations is to cover, from a histogram of them: always
 * symmetric, |x| ≤ range.
 */
import type { ValueRange } from "../linalg/channel_stats.ts";
import { Least } from "../ops/least.ts";
import { BINS, type Histogram } from "../observers/histogram.ts";

/** Ranges that a search may find, as shares of the largest magnitude: 1/512, 2/512, …, 1. */
export const RANGES = 512;

/** Of these, those that it looks at first: each 8th. Around the best of them it looks at all. */
const STRIDE = 8;

/** The largest magnitude. */
export function largestOf({ low, high }: ValueRange): number {
  return Math.max(-low, high);
}

/**
 * The magnitude that `percent` of the values do not exceed, values lying evenly in their bins;
 * infinite where some are NaN or infinite.
 */
export function rangeByPercentile(histogram: Histogram, percent: number): number {
  const { counts, limit } = histogram;
  if (largestOf(histogram) === Infinity) return Infinity;
  const half = BINS / 2;
  const width = limit / half;
  const wanted = counts.reduce((a, b) => a + b) * percent / 100;
  let below = 0;
  for (let i = 0; i < half; i++) {
    const count = counts[half + i]! + counts[half - 1 - i]!;
    if (count > 0 && below + count >= wanted) {
      return Math.min(largestOf(histogram), (i + (wanted - below) / count) * width);
    }
    below += count;
  }
  return largestOf(histogram);
}

/**
 * Levels that a scale of 1 allows, and the magnitude that a range is divided by to give the scale.
 */
export interface InputGrid {
  /** In ascending order. */
  readonly levels: Float64Array;
  /** scale = range / steps */
  readonly steps: number;
}

/**
 * The range whose levels are nearest to the values: that of {@linkcode RANGES} with the least Σ(x −
 * x̂)², by a coarse search and then a fine one, values lying evenly in their bins and the outermost
 * bins ending where the values do. Infinite where some are NaN or infinite.
 */
export function rangeByError(histogram: Histogram, { levels, steps }: InputGrid): number {
  const most = largestOf(histogram);
  if (most === Infinity) return Infinity;
  const best = new Least(RANGES);
  const look = (k: number) =>
    best.offer(k, squaredError(histogram, levels, most * k / RANGES / steps));
  for (let k = RANGES; k >= STRIDE; k -= STRIDE) look(k);
  const top = Math.min(RANGES, best.value + STRIDE - 1);
  const end = Math.max(1, best.value - STRIDE + 1);
  for (let k = top; k >= end; k--) look(k);
  return most * best.value / RANGES;
}

/** Σ(x − x̂)² of a histogram's values, x̂ the nearest of the levels times a scale. */
function squaredError(histogram: Histogram, levels: Float64Array, scale: number): number {
  const { counts, limit, low, high } = histogram;
  const width = 2 * limit / BINS;
  // A value below 0 that lies on an edge belongs to the bin below it.
  const from = Math.max(0, Math.ceil((low + limit) / width) - 1);
  const to = Math.min(BINS - 1, Math.floor((high + limit) / width));
  // G(x) = ∫ (t − t̂)² dt up to x: s³·(gap³/12 for every two levels passed, and (x/s − level)³/3
  // for the level that x is nearest to).
  let level = 0;
  let passed = 0;
  const integral = (x: number): number => {
    const t = x / scale;
    while (level + 1 < levels.length && levels[level]! + levels[level + 1]! < 2 * t) {
      passed += (levels[level + 1]! - levels[level]!) ** 3 / 12;
      level++;
    }
    return passed + (t - levels[level]!) ** 3 / 3;
  };
  let error = 0;
  let begin = Math.max(low, from * width - limit);
  let before = integral(begin);
  for (let i = from; i <= to; i++) {
    const end = Math.max(begin, Math.min(high, (i + 1) * width - limit));
    const after = integral(end);
    const mean = end > begin
      ? (after - before) / (end - begin) * scale ** 3
      : (begin - levels[level]! * scale) ** 2;
    error += counts[i]! * mean;
    [begin, before] = [end, after];
  }
  return error;
}
