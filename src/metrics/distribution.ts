/**
 * How a weight's values and codes are distributed, in few enough numbers to keep for every weight
 * of a model.
 */
import type { Backend } from "../backend.ts";
import type { ErrorSums } from "../metric.ts";
import type { Quantized, Scheme } from "../scheme.ts";

/** A weight's values before and after, and its codes. */
export interface Distribution {
  /** Bins of equal width from `low` to `high`; nothing lies outside. */
  readonly low: number;
  readonly high: number;
  /** How many values of the weight lie in each bin, as it was and as its codes stand for. */
  readonly before: readonly number[];
  readonly after: readonly number[];
  /**
   * How often each code occurs, `first` and those after it; of schemes whose codes can be counted.
   */
  readonly codes?: { readonly first: number; readonly counts: readonly number[] };
}

/** Bins that are kept of a histogram. */
export const KEPT_BINS = 64;

/**
 * The histograms of a weight over as much of their range as has values, in at most {@linkcode
 * KEPT_BINS} bins, as many on either side of 0.
 */
export function reduceHistograms(
  { original, quantized, range }: Pick<ErrorSums, "original" | "quantized" | "range">,
): Pick<Distribution, "low" | "high" | "before" | "after"> {
  const middle = original.length / 2;
  let reach = 1;
  for (let bin = 0; bin < original.length; bin++) {
    if (original[bin]! + quantized[bin]! === 0) continue;
    reach = Math.max(reach, bin < middle ? middle - bin : bin + 1 - middle);
  }
  const width = Math.ceil(2 * reach / KEPT_BINS);
  const half = Math.ceil(reach / width);
  const reduce = (counts: Uint32Array) => {
    const kept = new Array<number>(2 * half).fill(0);
    counts.forEach((count, bin) => {
      if (count > 0) kept[Math.floor((bin - middle) / width) + half]! += count;
    });
    return kept;
  };
  const high = half * width * range / middle;
  return { low: -high, high, before: reduce(original), after: reduce(quantized) };
}

/** The codes of a scheme that can be counted: where they lie, the first, how many there are. */
function codesOf(
  scheme: Scheme,
): { readonly first: number; readonly count: number; readonly nibbles: boolean } | undefined {
  switch (scheme.kind) {
    case "int":
      return { first: -(2 ** (scheme.bits - 1)), count: 2 ** scheme.bits, nibbles: false };
    case "llm_int8":
      return { first: -128, count: 256, nibbles: false };
    case "codebook":
      return { first: 0, count: 2 ** scheme.bits, nibbles: false };
    case "nf4":
    case "fp4":
      return { first: 0, count: 16, nibbles: true };
    default:
      return undefined;
  }
}

/** Counts the codes of one weight, slice after slice. */
export class CodeCounter {
  /** By the byte that holds a code, or two. */
  readonly #bytes = new Float64Array(256);
  readonly #scheme: Scheme;
  /** Codes that only fill a byte up. */
  readonly #fillers: number[] = [];

  constructor(scheme: Scheme) {
    this.#scheme = scheme;
  }

  /** The bytes of a slice's codes; undefined if they cannot be counted. */
  async read({ tensors: { codes } }: Quantized, backend: Backend): Promise<Uint8Array | undefined> {
    if (!codes || !codesOf(this.#scheme)) return undefined;
    const [bytes] = await backend.read(codes);
    return bytes;
  }

  /** Count a slice's codes, from their bytes. */
  add(bytes: Uint8Array, { rows, columns }: Pick<Quantized, "rows" | "columns">): void {
    for (let i = 0; i < bytes.length; i++) this.#bytes[bytes[i]!]!++;
    const odd = rows * columns % 2 === 1;
    if (odd && codesOf(this.#scheme)?.nibbles) this.#fillers.push(bytes.at(-1)! & 15);
  }

  /** All that was counted. */
  counts(): Distribution["codes"] {
    const codes = codesOf(this.#scheme);
    if (!codes) return undefined;
    const { first, count, nibbles } = codes;
    const counts = new Array<number>(count).fill(0);
    this.#bytes.forEach((times, byte) => {
      if (times === 0) return;
      if (!nibbles) counts[(byte << 24 >> 24) - first]! += times;
      else for (const code of [byte & 15, byte >> 4]) counts[code]! += times;
    });
    for (const code of this.#fillers) counts[code]!--;
    return { first, counts };
  }
}
