/** Numbers by chance that are the same in every run: they come from a seed alone. */

/** The largest seed. */
export const MAX_SEED = 2 ** 32 - 1;

/**
 * Numbers in [0, 1) that are the same for the same seed, a whole number from 0 to `MAX_SEED` (Tommy
 * Ettinger's mulberry32).
 */
export function uniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * `count` of the numbers below `total`, drawn without replacement (Fisher and Yates), in ascending
 * order.
 */
export function draw(count: number, { total, seed }: { total: number; seed: number }): number[] {
  const next = uniform(seed);
  const numbers = Array.from({ length: total }, (_, i) => i);
  for (let i = 0; i < count; i++) {
    const other = i + Math.floor(next() * (total - i));
    [numbers[i], numbers[other]] = [numbers[other]!, numbers[i]!];
  }
  return numbers.slice(0, count).sort((a, b) => a - b);
}
