/**
 * Some tokens' inputs of a linear, spread evenly over all windows and over all places in a window:
 * what a method compares outputs on.
 */
import type { Tensor } from "../backend.ts";
import { restoreNumber, saveNumber } from "../carry.ts";
import type { Observer } from "../observer.ts";
import { copyRectangle } from "../ops/copy.ts";
import { embedding } from "../ops/embedding.ts";

/** How many tokens are kept, where there are as many. */
export const SAMPLE_TOKENS = 512;

/**
 * Odd, and about 512 times the golden ratio's conjugate: its multiples are all places, those that
 * follow each other far apart.
 */
const STRIDE = 317;

/** f32[min(tokens, 512), C] */
export const tokenSample: Observer<Tensor> = {
  name: "token_sample",
  bytes: (channels, tokens) => Math.min(SAMPLE_TOKENS, tokens) * (channels + 1) * 4,
  open({ channels, tokens, windowTokens, firstToken = 0, scope }) {
    const { backend } = scope;
    const count = Math.min(SAMPLE_TOKENS, tokens);
    const sample = scope.alloc("f32", [count, channels]);
    const ids = scope.alloc("u32", [count]);
    let places: Uint32Array<ArrayBuffer> | undefined;
    let seen = firstToken;
    /** Rows of the sample that tokens fill, by their numbers. */
    const rowsOf = (begin: number, end: number) =>
      [...places!.keys()].filter((row) => places![row]! >= begin && places![row]! < end);
    const open = (length: number) => {
      if (places) return;
      places = samplePlaces(tokens, windowTokens ?? length);
      backend.write(ids, new Uint8Array(places.buffer));
    };
    return {
      add(x) {
        const [length = 0] = x.shape;
        open(length);
        // Rows whose token is not among these stay as they are.
        backend.run(embedding, { ids, table: x, x: sample }, { first: seen });
        seen += length;
      },
      async save(to) {
        await saveNumber(seen - firstToken, to);
        const [bytes] = await backend.read(sample);
        for (const row of rowsOf(firstToken, seen)) {
          await to.write(bytes!.slice(4 * row * channels, 4 * (row + 1) * channels));
        }
      },
      async restore(from) {
        const length = await restoreNumber(from);
        open(length);
        const rows = rowsOf(seen, seen + length);
        using scratch = backend.scope();
        for (const row of rows) {
          const one = scratch.alloc("f32", [1, channels]);
          backend.write(one, await from.read(4 * channels));
          const to = { tensor: sample, row };
          copyRectangle(backend, { from: { tensor: one }, to }, { rows: 1, columns: channels });
        }
        seen += length;
      },
      finish() {
        if (seen === tokens) return Promise.resolve(sample);
        throw new RangeError(`Cannot sample ${tokens} tokens: ${seen} passed`);
      },
    };
  },
};

/**
 * Which tokens of windows of a length are kept: equally many of each window, and of each part of a
 * window. The first token of a window, whose activations are massive in many models, is neither
 * left out nor there too often.
 */
export function samplePlaces(tokens: number, length: number): Uint32Array<ArrayBuffer> {
  if (tokens <= SAMPLE_TOKENS) return Uint32Array.from({ length: tokens }, (_, i) => i);
  const windows = tokens / length;
  return Uint32Array.from({ length: SAMPLE_TOKENS }, (_, i) => {
    const window = Math.floor(i * windows / SAMPLE_TOKENS);
    const place = Math.floor(i * STRIDE % SAMPLE_TOKENS * length / SAMPLE_TOKENS);
    return window * length + place;
  });
}
