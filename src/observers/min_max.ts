/**
 * The range of all values of a linear's input: PyTorch's MinMaxObserver (torch.ao.quantization, per
 * tensor).
 */
import {
  channelStatsBytes,
  gatherChannels,
  rangeOfAll,
  type ValueRange,
} from "../linalg/channel_stats.ts";
import type { Observer } from "../observer.ts";

/** See the head of this file. */
export const minMax: Observer<ValueRange> = {
  name: "min_max",
  bytes: channelStatsBytes,
  open(options) {
    const channels = gatherChannels(options);
    return {
      ...channels,
      finish: async () => rangeOfAll(await channels.finish()),
    };
  },
};
