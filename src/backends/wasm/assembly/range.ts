// The range of a tile's values, gathered run by run.
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

/** Extend the range by elements [at, at + n) of a tensor; `buffer` has room for RUN + 16 floats. */
export function extendRange(base: usize, at: i32, n: i32, type: i32, buffer: usize): void {
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
