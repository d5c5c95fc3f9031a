// Half-quadratic scales and zero points, tile by tile. Terms are f32, sums f64.
import { claim, dim, dtype, scalarU, scratch, tensor } from "./call";
import { run } from "./cast";
import { powMinus03, promoteHigh, sum2 } from "./math";
import { codes4, roundScale, scaleOf, smallestScale, zeroOf } from "./quantize";
import { extendRange, highest, lowest, RUN, startRange } from "./range";

const AFFINE: i32 = 2;
const ITERATIONS: i32 = 20;
/** Errors below this are no outliers at any β: 0.1^−0.3/12.1 is more. */
const FREE: f32 = 0.1;

// Thread-private: the tile at work, its grid, and what is known of one scale and zero point.
let weights: usize = 0, type: i32 = 0, C: i32 = 0, buffer: usize = 0;
let firstRow: i32 = 0, firstColumn: i32 = 0, width: i32 = 0, height: i32 = 0;
let bits: i32 = 0, grid: i32 = 0, scaleType: i32 = 0;
/** Σ |w − ŵ|, Σ (w − ŵ)²; with t the shrunken weights and l the levels, Σ l², Σ l·t. */
let absolute: f64 = 0, squared: f64 = 0, square: f64 = 0, product: f64 = 0;
let bestScale: f32 = 0, bestZero: i32 = 0;

/**
 * Go over the tile with one scale and zero point: errors, and with `beta` above 0 also what the
 * next scale is made of.
 */
function walk(s: f32, z: i32, beta: f32): void {
  const scale = f32x4.splat(s), zero = f32x4.splat(<f32>z),
    inverse = f32x4.splat(beta > 0 ? 1 / beta : 0);
  const qmax = (1 << (bits - 1)) - 1, qmin = grid == 1 ? -qmax : -qmax - 1;
  const least = f32x4.splat(<f32>qmin), most = f32x4.splat(<f32>qmax);
  const none = f32x4.splat(0), free = f32x4.splat(FREE), sign = i32x4.splat(0x80000000);
  let a = f64x2.splat(0), b = a, c = a, d = a;
  for (let r = firstRow, last = firstRow + height; r < last; r++) {
    for (let from: i32 = 0; from < width; from += RUN) {
      const n = min(RUN, width - from),
        p = run(weights, r * C + firstColumn + from, n, type, buffer);
      for (let i: i32 = 0; i < n; i += 4) {
        let w = v128.load(p + (<usize>i << 2)),
          level = f32x4.sub(codes4(w, scale, zero, least, most), zero);
        // Where the CPU does not fuse the two, a perfect fit has an error of some last bits.
        let apart = f32x4.relaxed_nmadd(level, scale, w);
        if (i + 4 > n) {
          const kept = i32x4.lt_s(i32x4(0, 1, 2, 3), i32x4.splat(n - i));
          w = v128.and(w, kept), level = v128.and(level, kept), apart = v128.and(apart, kept);
        }
        const size = f32x4.abs(apart);
        a = f64x2.add(a, f64x2.add(f64x2.promote_low_f32x4(size), promoteHigh(size)));
        if (beta == 0) {
          const s2 = f32x4.mul(apart, apart);
          b = f64x2.add(b, f64x2.add(f64x2.promote_low_f32x4(s2), promoteHigh(s2)));
          continue;
        }
        if (v128.any_true(f32x4.gt(size, free))) {
          const excess = f32x4.pmax(none, f32x4.sub(size, f32x4.mul(powMinus03(size), inverse)));
          w = f32x4.sub(w, v128.or(excess, v128.and(apart, sign)));
        }
        const l0 = f64x2.promote_low_f32x4(level), l1 = promoteHigh(level);
        c = f64x2.add(c, f64x2.add(f64x2.mul(l0, l0), f64x2.mul(l1, l1)));
        d = f64x2.add(d, f64x2.add(f64x2.mul(l0, f64x2.promote_low_f32x4(w)),
          f64x2.mul(l1, promoteHigh(w))));
      }
    }
  }
  absolute = sum2(a), squared = sum2(b), square = sum2(c), product = sum2(d);
}

/** From a scale on, with a zero point, as long as that helps; the least Σ |w − ŵ| of all. */
function descend(s: f32, z: i32, least: f64): f64 {
  let before: f64 = Infinity, beta: f64 = 10;
  for (let i: i32 = 0; i < ITERATIONS; i++) {
    walk(s, z, <f32>beta);
    if (!(absolute < before)) break;
    before = absolute;
    if (absolute < least) bestScale = s, bestZero = z, least = absolute;
    const fitted: f32 = square > 0 ? <f32>(product / square) : 0;
    if (!(fitted > 0)) break;
    s = roundScale(fitted, scaleType);
    if (!(s >= smallestScale(scaleType) && s < Infinity)) break;
    beta *= 1.01;
  }
  return least;
}

function solve(): void {
  const s = bestScale, z = bestZero, high = (1 << (bits - 1)) - 1;
  let least = descend(s, z, Infinity);
  if (grid != AFFINE) return;
  if (z > -high - 1) least = descend(s, z - 1, least);
  if (z < high) descend(s, z + 1, least);
}

/** Take other parameters if their squared error is smaller. */
function consider(s: f32, z: i32): void {
  walk(bestScale, bestZero, 0);
  const least = squared;
  walk(s, z, 0);
  if (squared < least) bestScale = s, bestZero = z;
}

export function hqq_params(thread: i32): void {
  const rivalScale = tensor(1), rivalZero = tensor(2), scale = tensor(3), zero = tensor(4);
  const R = dim(0), A = dim(2), B = dim(3), rows = scalarU(2), columns = scalarU(3),
    guard = scalarU(5) != 0;
  weights = tensor(0), type = dtype(0), C = dim(1), buffer = scratch(thread);
  bits = scalarU(0), grid = scalarU(1), scaleType = scalarU(4);
  for (let tile = claim(); tile < A * B; tile = claim()) {
    firstRow = tile / B * rows, firstColumn = tile % B * columns;
    width = min(columns, C - firstColumn), height = min(rows, R - firstRow);
    startRange();
    for (let r = firstRow, last = firstRow + height; r < last; r++) {
      extendRange(weights, r * C + firstColumn, width, type, buffer);
    }
    const low = lowest(), at = <usize>tile << 2;
    bestScale = scaleOf(low, highest(), bits, grid, scaleType),
      bestZero = zeroOf(low, bestScale, bits, grid);
    if (bestScale < Infinity) {
      const s = bestScale, z = bestZero;
      solve();
      if (guard) consider(s, z), consider(load<f32>(rivalScale + at),
        <i32>load<i8>(rivalZero + <usize>tile));
    }
    store<f32>(scale + at, bestScale);
    store<i8>(zero + <usize>tile, <i8>bestZero);
  }
}
