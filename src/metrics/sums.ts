/**
 * Gathering of error sums: what every metric is computed from, slice after slice of a weight. The
 * device adds up chunks of 4,096 elements in f32, the host adds the chunks in float64.
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import type { ErrorSums } from "../metric.ts";
import { errorSums } from "../ops/error_sums.ts";
import { histogram } from "../ops/histogram.ts";
import { elementCount } from "../tensor.ts";

/**
 * Bins of each histogram, which the earth mover's distance is as exact as; a multiple of 4, so that
 * a histogram of half the range fits into one without cutting a bin.
 */
export const BINS = 65536;

/** Elements per chunk, and numbers per chunk, of the op `error_sums`. */
const CHUNK = 4096;
const SUMS = 6;

/** The range's limits: what f32 holds without denormals, and with twice the range still finite. */
const SMALLEST = 2 ** -126;
const LARGEST = 2 ** 126;

/** Adds up the errors of one weight. Dispose it to free the histograms on the device. */
export class ErrorGatherer implements Disposable {
  readonly #scope: Scope;
  readonly #counts: { readonly original: Tensor; readonly quantized: Tensor };
  #sums: ErrorSums = {
    count: 0,
    signal: 0,
    energy: 0,
    cross: 0,
    noise: 0,
    maxError: 0,
    peak: 0,
    original: new Uint32Array(BINS),
    quantized: new Uint32Array(BINS),
    range: SMALLEST,
  };

  constructor(backend: Backend) {
    this.#scope = backend.scope();
    this.#counts = {
      original: this.#scope.alloc("u32", [BINS]),
      quantized: this.#scope.alloc("u32", [BINS]),
    };
  }

  /**
   * Add one slice: `original` f32|bf16|f16[R, C] against `dequantized` f32[R, C]. Two waits for the
   * device. If it fails, nothing is added.
   *
   * The histograms' range is a power of two that holds both weights; a slice with larger values
   * doubles it, which merges bins, so how a weight is cut changes nothing but the sums' last bits
   * and the bin of values at the very edge of one.
   */
  async add(original: Tensor, dequantized: Tensor): Promise<void> {
    const { backend } = this.#scope;
    using scope = backend.scope();
    const count = elementCount(original.shape);
    const partial = scope.alloc("f32", [Math.ceil(count / CHUNK), SUMS]);
    backend.run(errorSums, { a: original, b: dequantized, sums: partial });
    const [chunks] = await backend.read(partial);
    const before = this.#sums;
    const sums = addChunks(before, new Float32Array(chunks!.buffer));

    // |ŵ| ≤ |w| + |w − ŵ|.
    const range = Math.max(before.range, powerOfTwoAbove(sums.peak + sums.maxError));
    const limits = { low: -range, high: range };
    for (const [x, counts] of this.#pairs(original, dequantized)) {
      backend.write(counts, new Uint8Array(4 * BINS));
      backend.run(histogram, { x, counts }, limits);
    }
    const [ofOriginal, ofQuantized] = await backend.read(
      this.#counts.original,
      this.#counts.quantized,
    );
    const factor = range / before.range;
    this.#sums = {
      ...sums,
      count: before.count + count,
      original: addCounts(widen(before.original, factor), ofOriginal!),
      quantized: addCounts(widen(before.quantized, factor), ofQuantized!),
      range,
    };
  }

  #pairs(original: Tensor, dequantized: Tensor): readonly (readonly [x: Tensor, counts: Tensor])[] {
    return [[original, this.#counts.original], [dequantized, this.#counts.quantized]];
  }

  /** The sums of all slices so far. */
  sums(): ErrorSums {
    return this.#sums;
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

/** The chunks' sums, columns as the op gives them, on top of those before. */
function addChunks(before: ErrorSums, chunks: Float32Array): ErrorSums {
  let { signal, energy, cross, noise, maxError, peak } = before;
  for (let at = 0; at < chunks.length; at += SUMS) {
    signal += chunks[at]!;
    energy += chunks[at + 1]!;
    cross += chunks[at + 2]!;
    noise += chunks[at + 3]!;
    maxError = Math.max(maxError, chunks[at + 4]!);
    peak = Math.max(peak, chunks[at + 5]!);
  }
  return { ...before, signal, energy, cross, noise, maxError, peak };
}

/**
 * The smallest power of two in the allowed range that is not below x; the largest for infinities
 * and NaN.
 */
function powerOfTwoAbove(x: number): number {
  let power = SMALLEST;
  while (!(x <= power) && power < LARGEST) power *= 2;
  return power;
}

/**
 * A histogram over a range `factor` (a power of two) times as wide: every bin's count goes where
 * its values now belong.
 */
function widen(counts: Uint32Array, factor: number): Uint32Array {
  if (factor === 1) return counts;
  const wide = new Uint32Array(BINS);
  for (let bin = 0; bin < BINS; bin++) {
    // A bin's middle, measured from the middle of the range, which stays.
    wide[Math.floor((bin + 0.5 - BINS / 2) / factor + BINS / 2)]! += counts[bin]!;
  }
  return wide;
}

/** Counts with more of them added, in a new array: what was given out before does not change. */
function addCounts(counts: Uint32Array, bytes: Uint8Array<ArrayBuffer>): Uint32Array {
  const sums = new Uint32Array(bytes.buffer);
  for (let bin = 0; bin < BINS; bin++) sums[bin]! += counts[bin]!;
  return sums;
}
