/**
 * The largest magnitude of each channel of a linear's input, over all tokens: what SmoothQuant sets
 * against that of the weights.
 */
import { channelStatsBytes, gatherChannels, magnitudesOf } from "../linalg/channel_stats.ts";
import type { Observer } from "../observer.ts";

/** max|x| by channel, float32[C]; infinite where a channel holds NaN or infinity. */
export const absmax: Observer<Float32Array<ArrayBuffer>> = {
  name: "absmax",
  bytes: channelStatsBytes,
  open(options) {
    const channels = gatherChannels(options);
    return {
      ...channels,
      finish: async () => magnitudesOf(await channels.finish()),
    };
  },
};
