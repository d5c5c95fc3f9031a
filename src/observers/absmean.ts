/**
 * The mean magnitude of each channel of a linear's input, over all tokens: AWQ's own measure of
 * what a channel matters (arXiv 2306.00978 §3).
 */
import { restoreNumber, saveNumber } from "../carry.ts";
import { channelStatsBytes, gatherChannels } from "../linalg/channel_stats.ts";
import type { Observer } from "../observer.ts";

/** mean|x| by channel, float32[C]; infinite where a channel holds NaN or infinity. */
export const absmean: Observer<Float32Array<ArrayBuffer>> = {
  name: "absmean",
  bytes: channelStatsBytes,
  open(options) {
    const channels = gatherChannels(options);
    let tokens = 0;
    return {
      add(x) {
        tokens += x.shape[0]!;
        channels.add(x);
      },
      async save(to) {
        await saveNumber(tokens, to);
        await channels.save(to);
      },
      async restore(from) {
        tokens += await restoreNumber(from);
        await channels.restore(from);
      },
      finish: async () => (await channels.finish()).size.map((sum) => sum / tokens),
    };
  },
};
