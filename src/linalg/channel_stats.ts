/**
 * What `column_stats` gathers of each channel while windows pass, for the observers that tell
 * channels apart.
 */
import type { Tensor } from "../backend.ts";
import type { Carried } from "../carry.ts";
import type { ObserveOptions } from "../observer.ts";
import { COLUMN_STATS, columnStats } from "../ops/column_stats.ts";

/**
 * What is known of each channel, float32[C] each; infinite where a channel holds NaN or infinity.
 */
export interface ChannelStats {
  readonly low: Float32Array<ArrayBuffer>;
  readonly high: Float32Array<ArrayBuffer>;
  /** Σ|x| */
  readonly size: Float32Array<ArrayBuffer>;
}

/** Least and greatest of all values; −∞ and ∞ where some value is NaN or infinite. */
export interface ValueRange {
  readonly low: number;
  readonly high: number;
}

/** The range of all channels together. */
export function rangeOfAll({ low, high }: ChannelStats): ValueRange {
  return {
    low: low.reduce((a, b) => Math.min(a, b)),
    high: high.reduce((a, b) => Math.max(a, b)),
  };
}

/** max|x| by channel, float32[C]. */
export function magnitudesOf({ low, high }: ChannelStats): Float32Array<ArrayBuffer> {
  return low.map((least, c) => Math.max(-least, high[c]!));
}

/** Finite, so that shaders may compare with it. */
const LARGEST = 3.4e38;

/** Bytes of device memory for inputs of this many channels. */
export function channelStatsBytes(channels: number): number {
  return COLUMN_STATS * channels * 4;
}

/** Begin to gather; nothing is read back before the end. */
export function gatherChannels(
  { channels, scope }: Pick<ObserveOptions, "channels" | "scope">,
): Carried & {
  /** x f32[T, C] */
  add(x: Tensor): void;
  finish(): Promise<ChannelStats>;
} {
  const { backend } = scope;
  const stats = scope.alloc("f32", [COLUMN_STATS, channels]);
  const start = new Float32Array(COLUMN_STATS * channels);
  start.fill(LARGEST, 0, channels).fill(-LARGEST, channels, 2 * channels);
  backend.write(stats, new Uint8Array(start.buffer));
  return {
    add: (x) => backend.run(columnStats, { x, stats }),
    async save(to) {
      const [bytes] = await backend.read(stats);
      await to.write(bytes!);
    },
    async restore(from) {
      const [bytes] = await backend.read(stats);
      const all = new Float32Array(bytes!.buffer);
      const more = new Float32Array((await from.read(all.byteLength)).slice().buffer);
      more.forEach((value, i) => {
        const row = Math.floor(i / channels);
        all[i] = row === 0
          ? Math.min(all[i]!, value)
          : row === 1
          ? Math.max(all[i]!, value)
          : all[i]! + value;
      });
      backend.write(stats, bytes!);
    },
    async finish() {
      const [bytes] = await backend.read(stats);
      const all = new Float32Array(bytes!.buffer);
      const row = (i: number) => all.slice(i * channels, (i + 1) * channels);
      const [low, high, size] = [row(0), row(1), row(2)];
      // A comparison with NaN may leave it out; a sum does not.
      size.forEach((sum, c) => {
        if (!Number.isFinite(sum)) [low[c], high[c], size[c]] = [-Infinity, Infinity, Infinity];
      });
      return { low, high, size };
    },
  };
}
