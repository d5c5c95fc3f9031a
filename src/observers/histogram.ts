/**
 * A histogram of all values of a linear's input, for ranges that leave rare outliers out. As
 * PyTorch's HistogramObserver (torch.ao.quantization) it has 2048 bins between limits that grow
 * with what is seen. PyTorch spreads a bin's count over new bins when they do. Here the limits are
 * ±2^k, so that growing merges whole bins and the result is that of all values at once, whatever
 * order they came in; and they grow but once, in the end, from bins so fine that nothing need be
 * known before (`float_bins`): no window waits to be asked for its range.
 */
import {
  channelStatsBytes,
  gatherChannels,
  rangeOfAll,
  type ValueRange,
} from "../linalg/channel_stats.ts";
import { countFloats, FLOAT_COUNTS_BYTES } from "../linalg/float_counts.ts";
import type { Observer } from "../observer.ts";
import { leastOfBin, SIGN_BINS } from "../ops/float_bins.ts";

/** How many bins there are. */
export const BINS = 2048;

/**
 * Counts of values in equal bins, and the exact range of the values; the range is infinite where
 * some are NaN or infinite.
 */
export interface Histogram extends ValueRange {
  /**
   * Bin i counts magnitudes from |i − 1024|·limit/1024 on, of values ≥ 0 from bin 1024 up, of those
   * < 0 from bin 1023 down.
   */
  readonly counts: Float64Array<ArrayBuffer>;
  /** The least power of two above every magnitude. */
  readonly limit: number;
}

/** The narrowest limits, and the widest. */
const [LEAST_LIMIT, MOST_LIMIT] = [2 ** -54, 2 ** 63];

/** See the head of this file. */
export const histogram: Observer<Histogram> = {
  name: "histogram",
  bytes: (channels) => channelStatsBytes(channels) + FLOAT_COUNTS_BYTES,
  open(options) {
    const channels = gatherChannels(options);
    const fine = countFloats(options.scope);
    return {
      async add(x) {
        channels.add(x);
        await fine.add(x);
      },
      async save(to) {
        await channels.save(to);
        await fine.save(to);
      },
      async restore(from) {
        await channels.restore(from);
        await fine.restore(from);
      },
      async finish() {
        const { low, high } = rangeOfAll(await channels.finish());
        const most = Math.max(-low, high);
        if (!(most < MOST_LIMIT)) {
          return {
            counts: new Float64Array(BINS),
            limit: MOST_LIMIT,
            low: -Infinity,
            high: Infinity,
          };
        }
        let limit = LEAST_LIMIT;
        while (limit <= most) limit *= 2;
        return { counts: merged(await fine.finish(), limit), limit, low, high };
      },
    };
  },
};

/**
 * The counts of `float_bins` in 2048 equal bins between −limit and limit, of which none cuts one of
 * those.
 */
function merged(fine: Float64Array, limit: number): Float64Array<ArrayBuffer> {
  const counts = new Float64Array(BINS);
  const half = BINS / 2;
  for (let bin = 0; bin < SIGN_BINS; bin++) {
    const [positive, negative] = [fine[bin]!, fine[SIGN_BINS + bin]!];
    if (positive === 0 && negative === 0) continue;
    const place = Math.min(half - 1, Math.floor(leastOfBin(bin) / limit * half));
    counts[half + place]! += positive;
    counts[half - 1 - place]! += negative;
  }
  return counts;
}
