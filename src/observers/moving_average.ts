/**
 * A range that follows those of the windows: PyTorch's MovingAverageMinMaxObserver
 * (torch.ao.quantization, per tensor), a window being a batch. Each moves both ends a hundredth of
 * the way; rare outliers hardly move them.
 */
import type { Tensor } from "../backend.ts";
import { restoreNumber, saveNumber } from "../carry.ts";
import type { ValueRange } from "../linalg/channel_stats.ts";
import type { Observer } from "../observer.ts";
import { tileRange } from "../ops/tile_range.ts";

/** PyTorch's `averaging_constant`. */
const STEP = Math.fround(0.01);

/** See the head of this file. */
export const movingAverage: Observer<ValueRange> = {
  name: "moving_average",
  bytes: (_channels, tokens) => 2 * 4 * tokens,
  open({ scope, windowTokens }) {
    const { backend } = scope;
    // The ranges of rows, read when all windows have passed: waiting for a GPU in every window
    // would take longer than the windows.
    const ranges: (readonly [low: Tensor, high: Tensor])[] = [];
    return {
      add(x) {
        const [tokens = 0, channels = 0] = x.shape;
        const [low, high] = [scope.alloc("f32", [tokens, 1]), scope.alloc("f32", [tokens, 1])];
        backend.run(tileRange, { w: x, low, high }, { tile_rows: 1, tile_columns: channels });
        ranges.push([low, high]);
      },
      async save(to) {
        await saveNumber(ranges.length, to);
        for (const ends of ranges) {
          await saveNumber(ends[0].shape[0]!, to);
          for (const bytes of await backend.read(...ends)) await to.write(bytes);
        }
      },
      async restore(from) {
        for (let left = await restoreNumber(from); left > 0; left--) {
          const tokens = await restoreNumber(from);
          const [low, high] = [scope.alloc("f32", [tokens, 1]), scope.alloc("f32", [tokens, 1])];
          for (const end of [low, high]) backend.write(end, await from.read(4 * tokens));
          ranges.push([low, high]);
        }
      },
      async finish() {
        const read = await backend.read(...ranges.flat());
        const ends = (which: 0 | 1, end: (a: number, b: number) => number) =>
          read.filter((_, i) => i % 2 === which).flatMap(({ buffer }) => {
            const rows = [...new Float32Array(buffer)];
            const tokens = windowTokens ?? rows.length;
            return Array.from(
              { length: rows.length / tokens },
              (_, w) => rows.slice(w * tokens, (w + 1) * tokens).reduce((a, b) => end(a, b)),
            );
          });
        const follow = (ends: readonly number[], none: number) =>
          ends.length === 0 ? none : ends.reduce((from, to) => towards(from, to));
        const low = follow(ends(0, Math.min), Infinity);
        const high = follow(ends(1, Math.max), -Infinity);
        return { low, high };
      },
    };
  },
};

/** In f32, operation by operation, as PyTorch does it. */
function towards(from: number, to: number): number {
  return Math.fround(from + Math.fround(STEP * Math.fround(to - from)));
}
