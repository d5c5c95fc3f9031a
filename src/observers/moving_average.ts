/**
 * A range that follows those of the windows: PyTorch's MovingAverageMinMaxObserver (torch.ao.quantization, per tensor), a window being a batch. Each
 * moves both ends a hundredth of the way; rare outliers hardly move them.
 */
import type { Observer } from "../observer.ts";
import { rangeOf, type ValueRange } from "../value_range.ts";

/** PyTorch's `averaging_constant`. */
const STEP = Math.fround(0.01);

/** See the head of this file. */
export const movingAverage: Observer<ValueRange> = {
  name: "moving_average",
  bytes: () => 0,
  open({ scope: { backend } }) {
    let range: ValueRange | undefined;
    return {
      async add(x) {
        const window = await rangeOf(x, backend);
        range = range
          ? { low: towards(range.low, window.low), high: towards(range.high, window.high) }
          : window;
      },
      finish: () => Promise.resolve(range ?? { low: Infinity, high: -Infinity }),
    };
  },
};

/** In f32, operation by operation, as PyTorch does it. */
function towards(from: number, to: number): number {
  return Math.fround(from + Math.fround(STEP * Math.fround(to - from)));
}
