// The range of a tile's values, gathered run by run.
import { BF16 } from "./call";
import { run } from "./cast";

/** Elements widened at a time: the run stays in the L1 cache. */
export const RUN: i32 = 2048;

// Thread-private: the range so far, and whether a NaN was met.
let least: f32 = Infinity, most: f32 = -Infinity, broken: bool = false;

export function startRange(): void {
  least = Infinity, most = -Infinity, broken = false;
}

/** Extend the range by n ≥ 1 floats. */
function extend(p: usize, n: i32): void {
  let low = f32x4.splat(least), high = f32x4.splat(most), nan = i32x4.splat(0);
  if (n < 4) {
    for (let i: i32 = 0; i < n; i++) {
      const v = v128.load32_splat(p + (<usize>i << 2));
      low = f32x4.pmin(low, v), high = f32x4.pmax(high, v), nan = v128.or(nan, f32x4.ne(v, v));
    }
  } else {
    // The last vector overlaps the one before it, which harms neither minimum nor maximum.
    const last = p + (<usize>(n - 4) << 2);
    for (; p < last; p += 16) {
      const v = v128.load(p);
      low = f32x4.pmin(low, v), high = f32x4.pmax(high, v), nan = v128.or(nan, f32x4.ne(v, v));
    }
    const v = v128.load(last);
    low = f32x4.pmin(low, v), high = f32x4.pmax(high, v), nan = v128.or(nan, f32x4.ne(v, v));
  }
  low = f32x4.pmin(low, v128.shuffle<f32>(low, low, 2, 3, 0, 1));
  low = f32x4.pmin(low, v128.shuffle<f32>(low, low, 1, 0, 3, 2));
  high = f32x4.pmax(high, v128.shuffle<f32>(high, high, 2, 3, 0, 1));
  high = f32x4.pmax(high, v128.shuffle<f32>(high, high, 1, 0, 3, 2));
  least = f32x4.extract_lane(low, 0);
  most = f32x4.extract_lane(high, 0);
  if (v128.any_true(nan)) broken = true;
}

/**
 * Sixteen-bit integers in the order of the bf16 numbers whose bits they are, and back: the bits of
 * a negative number fall as it rises.
 */
@inline
function ordered(bits: v128): v128 {
  return v128.xor(bits, v128.and(i16x8.shr_s(bits, 15), i16x8.splat(0x7fff)));
}

/** The same for one: the f32 that an ordered integer stands for. */
@inline
function valueOf(key: i32): f32 {
  return reinterpret<f32>((key ^ ((key >> 31) & 0x7fff)) << 16);
}

/** Ordered integers of the infinities; NaN is beyond them. */
const TOP: i32 = 0x7f80, BOTTOM: i32 = -0x7f81;

/** Extend the range by n ≥ 8 bf16 numbers. */
function extendBF16(p: usize, n: i32): void {
  const last = p + (<usize>(n - 8) << 1);
  let v = ordered(v128.load(last)), low = v, high = v;
  for (; p < last; p += 16) {
    v = ordered(v128.load(p));
    low = i16x8.min_s(low, v), high = i16x8.max_s(high, v);
  }
  low = i16x8.min_s(low, v128.shuffle<i16>(low, low, 4, 5, 6, 7, 0, 1, 2, 3));
  high = i16x8.max_s(high, v128.shuffle<i16>(high, high, 4, 5, 6, 7, 0, 1, 2, 3));
  low = i16x8.min_s(low, v128.shuffle<i16>(low, low, 2, 3, 0, 1, 6, 7, 4, 5));
  high = i16x8.max_s(high, v128.shuffle<i16>(high, high, 2, 3, 0, 1, 6, 7, 4, 5));
  low = i16x8.min_s(low, v128.shuffle<i16>(low, low, 1, 0, 3, 2, 5, 4, 7, 6));
  high = i16x8.max_s(high, v128.shuffle<i16>(high, high, 1, 0, 3, 2, 5, 4, 7, 6));
  const l = <i32>i16x8.extract_lane_s(low, 0), h = <i32>i16x8.extract_lane_s(high, 0);
  if (l < BOTTOM || h > TOP) broken = true;
  else least = min<f32>(least, valueOf(l)), most = max<f32>(most, valueOf(h));
}

/** Extend the range by elements [at, at + n) of a tensor; `buffer` has room for RUN + 16 floats. */
export function extendRange(base: usize, at: i32, n: i32, type: i32, buffer: usize): void {
  if (type == BF16 && n >= 8) return extendBF16(base + (<usize>at << 1), n);
  for (let i: i32 = 0; i < n; i += RUN) {
    const count = min(RUN, n - i);
    extend(run(base, at + i, count, type, buffer), count);
  }
}

@inline
function finite(): bool {
  return !broken && most < Infinity && least > -Infinity;
}

/** The least value; −∞ if one is not finite. */
export function lowest(): f32 {
  return finite() ? least : -Infinity;
}

/** The greatest value; +∞ if one is not finite. */
export function highest(): f32 {
  return finite() ? most : Infinity;
}
