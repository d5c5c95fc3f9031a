/** The range of all values of a linear's input: PyTorch's MinMaxObserver (torch.ao.quantization, per tensor). */
import type { Observer } from "../observer.ts";
import { rangeOf, type ValueRange } from "../value_range.ts";

/** See the head of this file. */
export const minMax: Observer<ValueRange> = {
  name: "min_max",
  bytes: () => 0,
  open({ scope: { backend } }) {
    let [low, high] = [Infinity, -Infinity];
    return {
      async add(x) {
        const window = await rangeOf(x, backend);
        [low, high] = [Math.min(low, window.low), Math.max(high, window.high)];
      },
      finish: () => Promise.resolve({ low, high }),
    };
  },
};
