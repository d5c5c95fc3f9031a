// The scale search: 80 shrunk ranges a tile, the error of each measured. Errors are f32 a term (within 1e-5 of the
// definition's), sums are f64; so the definition's scale is found unless two candidates' errors are that close.
import { claim, dim, dtype, scalarU, scratch, tensor } from "./call";
import { run } from "./cast";
import { pow24, promoteHigh, sum2 } from "./math";
import { codes4, roundScale, scaleOf, smallestScale, zeroOf } from "./quantize";
import { extendRange, highest, lowest, startRange } from "./range";

const STEPS: i32 = 80;
/** Floats of a tile held widened in scratch; a larger tile is widened again for every candidate. */
const HELD: i32 = 1 << 16;
/** Terms between two looks whether the error is already too large; few enough to be summed in f32. */
const LOOK: i32 = 32;

// Thread-private: the tile at work, its quantizer's constants, the best candidate so far.
let weights: usize = 0, type: i32 = 0, C: i32 = 0;
let firstColumn: i32 = 0, width: i32 = 0, firstRow: i32 = 0, size: i32 = 0;
let held: usize = 0, buffer: usize = 0, heldFrom: i32 = -1;
let bits: i32 = 0, grid: i32 = 0, scaleType: i32 = 0, objective: i32 = 0, inverse: f32 = 0;
let bestScale: f32 = 0, bestZero: i32 = 0, bestError: f64 = 0;
let product: f64 = 0, square: f64 = 0;

/** Bring elements [from, from + count) of the tile, row after row, into `held`, and zeros up to a multiple of 4. */
function hold(from: i32, count: i32): void {
  if (heldFrom == from) return;
  heldFrom = from;
  let out = held;
  for (let i: i32 = 0; i < count;) {
    const r = (from + i) / width, c = (from + i) % width, n = min(min(width - c, count - i), 2048);
    memory.copy(out, run(weights, (firstRow + r) * C + firstColumn + c, n, type, buffer), <usize>n << 2);
    out += <usize>n << 2;
    i += n;
  }
  v128.store(out, i32x4.splat(0));
}

/** The error of rounding with this scale and zero point; gives up, with some larger number, once it is past the best. */
function errorOf(s: f32, z: i32): f64 {
  const scale = f32x4.splat(s), zero = f32x4.splat(<f32>z);
  const norm = f32x4.splat(inverse), magnitude = i32x4.splat(0x7fffffff);
  const qmax = (1 << (bits - 1)) - 1, qmin = grid == 1 ? -qmax : -qmax - 1;
  const least = f32x4.splat(<f32>qmin), most = f32x4.splat(<f32>qmax);
  let error: f64 = 0;
  for (let from: i32 = 0; from < size; from += HELD) {
    const count = min(HELD, size - from);
    hold(from, count);
    for (let i: i32 = 0; i < count && !(error >= bestError); i += LOOK) {
      let p = held + (<usize>i << 2);
      const end = held + (<usize>min(count, i + LOOK) << 2);
      let sum = f64x2.splat(0);
      if (objective == 0) {
        let sum32 = f32x4.splat(0);
        for (; p < end; p += 16) {
          const w = v128.load(p), level = f32x4.sub(codes4(w, scale, zero, least, most), zero);
          const e = v128.and(f32x4.sub(f32x4.mul(level, scale), w), magnitude);
          sum32 = f32x4.add(sum32, pow24(f32x4.mul(e, norm)));
        }
        sum = f64x2.add(f64x2.promote_low_f32x4(sum32), promoteHigh(sum32));
      } else {
        const scale64 = f64x2.splat(s);
        for (; p < end; p += 16) {
          const w = v128.load(p), level = f32x4.sub(codes4(w, scale, zero, least, most), zero);
          const e0 = f64x2.sub(f64x2.mul(f64x2.promote_low_f32x4(level), scale64), f64x2.promote_low_f32x4(w));
          const e1 = f64x2.sub(f64x2.mul(promoteHigh(level), scale64), promoteHigh(w));
          sum = f64x2.add(sum, f64x2.add(f64x2.mul(e0, e0), f64x2.mul(e1, e1)));
        }
      }
      error += sum2(sum);
    }
  }
  return error;
}

/** product = Σ w·(q − z), square = Σ (q − z)². */
function correlate(s: f32, z: i32): void {
  const scale = f32x4.splat(s), zero = f32x4.splat(<f32>z);
  const qmax = (1 << (bits - 1)) - 1, qmin = grid == 1 ? -qmax : -qmax - 1;
  const least = f32x4.splat(<f32>qmin), most = f32x4.splat(<f32>qmax);
  let products = f64x2.splat(0), squares = f64x2.splat(0);
  for (let from: i32 = 0; from < size; from += HELD) {
    const count = min(HELD, size - from);
    hold(from, count);
    for (let p = held, end = held + (<usize>count << 2); p < end; p += 16) {
      const w = v128.load(p), level = f32x4.sub(codes4(w, scale, zero, least, most), zero);
      const l0 = f64x2.promote_low_f32x4(level), l1 = promoteHigh(level);
      products = f64x2.add(products, f64x2.mul(f64x2.promote_low_f32x4(w), l0));
      products = f64x2.add(products, f64x2.mul(promoteHigh(w), l1));
      squares = f64x2.add(squares, f64x2.add(f64x2.mul(l0, l0), f64x2.mul(l1, l1)));
    }
  }
  product = sum2(products), square = sum2(squares);
}

function consider(s: f32, z: i32): void {
  const error = errorOf(s, z);
  if (error < bestError) bestScale = s, bestZero = z, bestError = error;
}

function searchTile(low: f32, high: f32): void {
  bestScale = scaleOf(low, high, bits, grid, scaleType), bestZero = zeroOf(low, bestScale, bits, grid);
  if (bestScale == Infinity) return;
  bestError = Infinity, heldFrom = -1;
  inverse = min<f32>(1 / max<f32>(abs<f32>(low), abs<f32>(high)), 1e36);
  for (let i: i32 = 0; i < STEPS; i++) {
    const shrink = <f32>(1 - <f64>i / 100);
    const s = scaleOf(shrink * low, shrink * high, bits, grid, scaleType), z = zeroOf(shrink * low, s, bits, grid);
    consider(s, z);
    if (objective == 1) {
      correlate(s, z);
      const refitted = square == 0 ? <f32>0 : roundScale(<f32>(product / square), scaleType);
      if (refitted >= smallestScale(scaleType)) consider(refitted, z);
    }
  }
}

export function search_params(thread: i32): void {
  const scale = tensor(1), zero = tensor(2), R = dim(0), A = dim(2), B = dim(3);
  const rows = scalarU(2), columns = scalarU(3);
  weights = tensor(0), type = dtype(0), C = dim(1);
  bits = scalarU(0), grid = scalarU(1), scaleType = scalarU(4), objective = scalarU(5);
  buffer = scratch(thread), held = buffer + ((2048 + 16) << 2);
  for (let tile = claim(); tile < A * B; tile = claim()) {
    firstRow = tile / B * rows, firstColumn = tile % B * columns;
    width = min(columns, C - firstColumn), size = width * min(rows, R - firstRow);
    startRange();
    for (let r = firstRow, end = min(R, firstRow + rows); r < end; r++) {
      extendRange(weights, r * C + firstColumn, width, type, buffer);
    }
    searchTile(lowest(), highest());
    store<f32>(scale + (<usize>tile << 2), bestScale);
    store<i8>(zero + <usize>tile, <i8>bestZero);
  }
}
