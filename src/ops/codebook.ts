/**
 * Fixed tables of quantization levels, as exact f32 bits: bitsandbytes' NF4, FP4 and 8-bit dynamic
 * map. QLoRA (arXiv 2305.14314) derives NF4; the dynamic map is of "8-bit Optimizers" (arXiv
 * 2110.02861).
 */

/** f32 values from hexadecimal bits, separated by white space. */
function fromHex(words: string): Float32Array<ArrayBuffer> {
  const bits = words.trim().split(/\s+/).map((word) => parseInt(word, 16));
  return new Float32Array(new Uint32Array(bits).buffer);
}

/** NF4's 16 levels by code, ascending; code 7 is 0. */
export const NF4_TABLE: Float32Array<ArrayBuffer> = fromHex(`
  bf800000 bf3239b1 bf066b30 beca32a0 be91a24d be3d353f bdba7871 00000000
  3da2faff 3e24cae3 3e7c04dd 3ead033a 3ee1a4b8 3f1007ab 3f3913b3 3f800000
`);

/**
 * bitsandbytes' FP4: 16 levels by code, a sign bit and 0, 0.0625, 8, 12, 4, 6, 2, 3 in twelfths;
 * not sorted, and not E2M1.
 */
export const FP4_TABLE: Float32Array<ArrayBuffer> = fromHex(`
  00000000 3baaaaab 3f2aaaab 3f800000 3eaaaaab 3f000000 3e2aaaab 3e800000
  00000000 bbaaaaab bf2aaaab bf800000 beaaaaab bf000000 be2aaaab be800000
`);

/** A 4-bit codebook as the quantizer wants it. */
export interface Codebook {
  /** Value by code. */
  readonly table: Float32Array<ArrayBuffer>;
  /** Codes in ascending order of value. */
  readonly order: readonly number[];
  /**
   * Midpoints between neighbours in that order; a value strictly above `bounds[i]` is past
   * `order[i]`.
   */
  readonly bounds: Float32Array<ArrayBuffer>;
  /** The code of 0, which also fills the nibble past an odd end. */
  readonly zero: number;
}

/**
 * Midpoints between neighbours of ascending levels; a value strictly above `bounds[i]` is past
 * level `i`.
 */
export function midpoints(levels: ArrayLike<number>): Float32Array<ArrayBuffer> {
  const bounds = new Float32Array(Math.max(0, levels.length - 1));
  for (let i = 0; i < bounds.length; i++) {
    bounds[i] = Math.fround(levels[i]! + levels[i + 1]!) / 2;
  }
  return bounds;
}

function codebook(
  table: Float32Array<ArrayBuffer>,
  order: readonly number[],
  zero: number,
): Codebook {
  return { table, order, bounds: midpoints(order.map((code) => table[code]!)), zero };
}

/** Whether a number is within four f32 roundings of one of the bounds between codes. */
export function nearBound(level: number, bounds: ArrayLike<number>): boolean {
  for (let i = 0; i < bounds.length; i++) {
    if (Math.abs(level - bounds[i]!) <= 2 ** -22 * Math.abs(bounds[i]!)) return true;
  }
  return false;
}

/** NF4, as bitsandbytes rounds to it. */
export const NF4: Codebook = codebook(NF4_TABLE, [...NF4_TABLE.keys()], 7);

/**
 * FP4, as bitsandbytes rounds to it: its two zeros stand side by side, so a small positive value
 * takes code 8.
 */
export const FP4: Codebook = codebook(
  FP4_TABLE,
  [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3],
  0,
);

/** The 4-bit codebooks by the number the ops know them by (`kind`). */
export const CODEBOOKS: readonly [nf4: Codebook, fp4: Codebook] = [NF4, FP4];

const DYNAMIC_POSITIVE = fromHex(`
  3513a3b7 365a1a94 370205ff 37b24206 38378034 388aefb3 38ba1f4b 3923d70b
  398ce705 39c7e283 3a016f01 3a1eecc1 3a3c6a80 3a59e83e 3a7765ff 3aa7ef9d
  3af1a9fc 3b1db22d 3b428f5c 3b676c8a 3b8624dd 3b989374 3bab020d 3bbd70a4
  3bcfdf3b 3be24dd3 3bf4bc6a 3c039581 3c0ccccd 3c160418 3c1f3b64 3c3ae148
  3c68f5c3 3c8b851f 3ca28f5d 3cb9999a 3cd0a3d7 3ce7ae15 3cfeb852 3d0ae148
  3d166667 3d21eb85 3d2d70a3 3d38f5c3 3d447ae1 3d500000 3d5b851f 3d670a3d
  3d728f5d 3d7e147b 3d84cccd 3d8a8f5d 3d9051eb 3d96147b 3d9bd70a 3da1999a
  3da75c2a 3dad1eb8 3db2e148 3db8a3d7 3dbe6667 3dc428f7 3dc9eb85 3ddb3334
  3df80000 3e0a6666 3e18cccd 3e273333 3e35999a 3e440000 3e526666 3e60cccd
  3e6f3333 3e7d9999 3e860000 3e8d3334 3e946666 3e9b999a 3ea2cccc 3eaa0000
  3eb13333 3eb86666 3ebf999a 3ec6cccc 3ece0000 3ed53333 3edc6666 3ee3999a
  3eeacccc 3ef20000 3ef93332 3f003333 3f03cccc 3f076666 3f0b0000 3f0e999a
  3f123334 3f15cccd 3f196666 3f1d0000 3f20999a 3f243334 3f27cccd 3f2b6666
  3f2f0000 3f32999a 3f363334 3f39cccd 3f3d6666 3f410000 3f44999a 3f483333
  3f4bcccd 3f4f6666 3f530000 3f56999a 3f5a3333 3f5dcccd 3f616666 3f650000
  3f68999a 3f6c3333 3f6fcccd 3f736666 3f770000 3f7a999a 3f7e3333 3f800000
`);

/**
 * The signed 8-bit dynamic map, sorted: 127 negatives that mirror the positives but 1, then 0 at
 * index 127, then 128 positives. For e = 0 … 6, the midpoints of 2^e equal cells of [0.1, 1], times
 * 10^(e−6); embedded because recomputing it in float64 misses the last bit of some entries.
 */
export const DYNAMIC_MAP: Float32Array<ArrayBuffer> = Float32Array.from([
  ...Array.from(DYNAMIC_POSITIVE.subarray(0, 127), (value) => -value).reverse(),
  0,
  ...DYNAMIC_POSITIVE,
]);
