/** For observers: how values are distributed, without knowing their range before. */
import wgsl from "../../shaders/float_bins.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { clamp } from "./grid.ts";

/**
 * Bins of one sign: 512 for each power of two from 2^-64 on; the first also holds what is smaller,
 * the last what is larger.
 */
export const SIGN_BINS = 65536;

/** The exponent field of the first bin. */
const FIRST_EXPONENT = 63;

/** Bits of the mantissa that do not count. */
const SHIFT = 14;

/** The least magnitude in a bin of one sign; of the first, 2^-64. */
export function leastOfBin(bin: number): number {
  return 2 ** (FIRST_EXPONENT - 127 + Math.floor(bin / 512)) * (1 + bin % 512 / 512);
}

/**
 * Adds to the counts of values by their leading bits: bins of values ≥ 0 and then of values < 0,
 * each by magnitude. NaN counts as the largest.
 */
export const floatBins = defineOp({
  name: "float_bins",
  inputs: { x: "f32[N]" },
  outputs: { counts: "u32[K]" },
  wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  check: ({ K = 0 }) =>
    K === 2 * SIGN_BINS || `there are K = ${2 * SIGN_BINS} bins, got counts of ${K}`,
  reference({ x, counts }, { N = 0 }) {
    const bits = new Uint32Array(x!.buffer, x!.byteOffset, N);
    for (const word of bits) {
      const place = ((word & 0x7fffffff) >>> SHIFT) - FIRST_EXPONENT * 512;
      counts![clamp(place, 0, SIGN_BINS - 1) + (word >>> 31) * SIGN_BINS]! += 1;
    }
  },
});
