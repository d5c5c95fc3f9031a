/**
 * A histogram of all values of a linear's input, for ranges that leave rare outliers out. As PyTorch's HistogramObserver (torch.ao.quantization) it has
 * 2048 bins and its range grows with what it sees. PyTorch spreads a bin's count over the new bins; here the range is [−L, L) with L a power of two, so
 * that growing merges whole bins, and the result is that of all values at once, whatever order they came in.
 */
import type { Scope, Tensor } from "../backend.ts";
import type { Observer } from "../observer.ts";
import { histogram as countValues } from "../ops/histogram.ts";
import { rangeOf, type ValueRange } from "../value_range.ts";

/** How many bins there are. */
export const BINS = 2048;

/** Counts of values in equal bins, and the exact range of the values; the range is infinite where some are NaN or infinite. */
export interface Histogram extends ValueRange {
  /** Bin i counts values from (2i/2048 − 1)·limit on. */
  readonly counts: Float64Array<ArrayBuffer>;
  readonly limit: number;
}

/** The narrowest range, and the widest whose width is a float. */
const [LEAST_LIMIT, MOST_LIMIT] = [2 ** -60, 2 ** 126];

/** See the head of this file. */
export const histogram: Observer<Histogram> = {
  name: "histogram",
  bytes: () => BINS * 4,
  open: ({ scope }) => {
    let counts = new Float64Array(BINS);
    let limit = LEAST_LIMIT;
    let [low, high] = [Infinity, -Infinity];
    return {
      async add(x) {
        const window = await rangeOf(x, scope.backend);
        [low, high] = [Math.min(low, window.low), Math.max(high, window.high)];
        const most = Math.max(-low, high);
        if (!(most < MOST_LIMIT)) return void ([low, high] = [-Infinity, Infinity]);
        for (; limit <= most; limit *= 2) counts = merged(counts);
        const more = await countsOf(x, limit, scope);
        counts = counts.map((count, i) => count + more[i]!);
      },
      finish: () => Promise.resolve({ counts, limit, low, high }),
    };
  },
};

/** The same counts in bins twice as wide. */
function merged(counts: Float64Array<ArrayBuffer>): Float64Array<ArrayBuffer> {
  const wide = new Float64Array(BINS);
  counts.forEach((count, i) => wide[BINS / 4 + (i >> 1)]! += count);
  return wide;
}

/** Counts of the values of a tensor between −limit and limit. */
async function countsOf(
  x: Tensor,
  limit: number,
  { backend }: Scope,
): Promise<Uint32Array<ArrayBuffer>> {
  using scratch = backend.scope();
  const counts = scratch.alloc("u32", [BINS]);
  backend.write(counts, new Uint8Array(BINS * 4));
  backend.run(countValues, { x, counts }, { low: -limit, high: limit });
  const [bytes] = await backend.read(counts);
  return new Uint32Array(bytes!.buffer);
}
