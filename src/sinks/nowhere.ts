/** A place that keeps nothing: for runs whose measurements are wanted and not their files. */
import type { Sink } from "../sink.ts";

/** Takes every file and forgets it. */
export function openNowhere(): Sink {
  return {
    label: "nowhere",
    create: (_path, size) =>
      Promise.resolve({
        write(offset: number, bytes: Uint8Array): Promise<void> {
          if (offset + bytes.length <= size) return Promise.resolve();
          throw new RangeError(
            `Cannot write ${bytes.length} bytes at ${offset} of a file of ${size}`,
          );
        },
        sync: () => Promise.resolve(),
        commit: () => Promise.resolve(),
        [Symbol.asyncDispose]: () => Promise.resolve(),
      }),
    commit: () => Promise.resolve(),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
