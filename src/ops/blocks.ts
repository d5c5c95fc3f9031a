/**
 * Rounding a block to a sorted codebook, as bitsandbytes 0.50's portable code does it
 * (`backends/default`; the CUDA kernels agree but for the last bit of the quotient). Its x86
 * library looks 8-bit codes up in 65536 cells instead, which gives the neighbour of the nearest
 * entry to 0.15 % of the values; that approximation is not followed here.
 */

/**
 * Where bitsandbytes stops dividing: a block's absmax counts as at least this, and its quotients
 * come out near 0.
 */
const LEAST_ABSMAX = Math.fround(1e-38);

/**
 * The absmax of a block and, for each value, how many bounds are strictly below value/absmax. A
 * full block is multiplied by the f32 reciprocal, a short one divided. A block of zeros has absmax
 * 0 and a block that is not finite +∞; their values count as 0.
 */
export function rankBlock(
  values: readonly number[],
  { block, bounds, absmax = values.reduce((most, x) => Math.max(most, Math.abs(x)), 0) }: {
    readonly block: number;
    readonly bounds: ArrayLike<number>;
    /** Taken instead of the block's own. */
    readonly absmax?: number;
  },
): { readonly absmax: number; readonly ranks: readonly number[] } {
  const divisor = Math.max(absmax, LEAST_ABSMAX);
  const reciprocal = Math.fround(1 / divisor);
  const ranks = values.map((value) => {
    const level = Math.fround(values.length < block ? value / divisor : value * reciprocal);
    return rankOf(Number.isFinite(absmax) ? level : 0, bounds);
  });
  return { absmax: Number.isFinite(absmax) ? absmax : Infinity, ranks };
}

/** How many of the ascending bounds are strictly below a level. */
function rankOf(level: number, bounds: ArrayLike<number>): number {
  let [low, high] = [0, bounds.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (level > bounds[middle]!) low = middle + 1;
    else high = middle;
  }
  return low;
}
