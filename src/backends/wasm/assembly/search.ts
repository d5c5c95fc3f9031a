// The scale search: 80 candidates a tile, the error of each measured. Errors are f32 a term (within 1e-5 of the
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
let weights: usize = 0, importance: usize = 0, type: i32 = 0, C: i32 = 0;
let firstColumn: i32 = 0, width: i32 = 0, firstRow: i32 = 0, size: i32 = 0;
let held: usize = 0, heldImportance: usize = 0, buffer: usize = 0, heldFrom: i32 = -1;
let bits: i32 = 0, grid: i32 = 0, scaleType: i32 = 0, objective: i32 = 0, signed: bool = false, inverse: f32 = 0;
let bestScale: f32 = 0, bestZero: i32 = 0, bestError: f64 = 0;
let product: f64 = 0, square: f64 = 0;

/** Bring elements [from, from + count) of the tile, row after row, into `held`, with zeros up to a multiple of 4, and what they count for. */
function hold(from: i32, count: i32): void {
  if (heldFrom == from) return;
  heldFrom = from;
  let out: usize = 0;
  for (let i: i32 = 0; i < count;) {
    const r = (from + i) / width, c = (from + i) % width, n = min(min(width - c, count - i), 2048);
    memory.copy(held + out, run(weights, (firstRow + r) * C + firstColumn + c, n, type, buffer), <usize>n << 2);
    memory.copy(heldImportance + out, importance + (<usize>(firstColumn + c) << 2), <usize>n << 2);
    out += <usize>n << 2;
    i += n;
  }
  v128.store(held + out, i32x4.splat(0));
  v128.store(heldImportance + out, i32x4.splat(0));
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
      let p = held + (<usize>i << 2), by = heldImportance + (<usize>i << 2);
      const end = held + (<usize>min(count, i + LOOK) << 2);
      let sum = f32x4.splat(0);
      if (objective == 0) {
        for (; p < end; p += 16) {
          const w = v128.load(p), level = f32x4.sub(codes4(w, scale, zero, least, most), zero);
          const e = v128.and(f32x4.sub(f32x4.mul(level, scale), w), magnitude);
          sum = f32x4.add(sum, f32x4.mul(pow24(f32x4.mul(e, norm)), v128.load(by)));
          by += 16;
        }
      } else {
        for (; p < end; p += 16) {
          const w = v128.load(p), level = f32x4.sub(codes4(w, scale, zero, least, most), zero);
          // Where the CPU does not fuse the two, a perfect fit has an error of some last bits.
          const e = f32x4.relaxed_nmadd(level, scale, w);
          sum = f32x4.add(sum, f32x4.mul(f32x4.mul(e, e), v128.load(by)));
          by += 16;
        }
      }
      error += sum2(f64x2.add(f64x2.promote_low_f32x4(sum), promoteHigh(sum)));
    }
  }
  return error;
}

/** product = Σ importance·w·(q − z), square = Σ importance·(q − z)². */
function correlate(s: f32, z: i32): void {
  const scale = f32x4.splat(s), zero = f32x4.splat(<f32>z);
  const qmax = (1 << (bits - 1)) - 1, qmin = grid == 1 ? -qmax : -qmax - 1;
  const least = f32x4.splat(<f32>qmin), most = f32x4.splat(<f32>qmax);
  let products = f64x2.splat(0), squares = f64x2.splat(0);
  for (let from: i32 = 0; from < size; from += HELD) {
    const count = min(HELD, size - from);
    hold(from, count);
    for (let i: usize = 0, end = <usize>count << 2; i < end; i += 16) {
      const w = v128.load(held + i), level = f32x4.sub(codes4(w, scale, zero, least, most), zero);
      const by = v128.load(heldImportance + i);
      const l0 = f64x2.promote_low_f32x4(level), l1 = promoteHigh(level);
      const b0 = f64x2.mul(f64x2.promote_low_f32x4(by), l0), b1 = f64x2.mul(promoteHigh(by), l1);
      products = f64x2.add(products, f64x2.mul(f64x2.promote_low_f32x4(w), b0));
      products = f64x2.add(products, f64x2.mul(promoteHigh(w), b1));
      squares = f64x2.add(squares, f64x2.add(f64x2.mul(b0, l0), f64x2.mul(b1, l1)));
    }
  }
  product = sum2(products), square = sum2(squares);
}

function consider(s: f32, z: i32): void {
  const error = errorOf(s, z);
  if (error < bestError) bestScale = s, bestZero = z, bestError = error;
}

/** Candidate `i` of the signed ones: 40 with which the largest weight meets the lowest code, 40 with its opposite. */
function signedScale(extreme: f32, i: i32): f32 {
  if (extreme == 0) return 1;
  const part = <f32>(<f64>(110 - 2 * (i % 40)) / 100);
  const scale = part * abs<f32>(extreme) / <f32>(1 << (bits - 1));
  const size = max<f32>(roundScale(scale, scaleType), smallestScale(scaleType));
  return copysign<f32>(size, i < 40 ? -extreme : extreme);
}

function searchTile(low: f32, high: f32): void {
  bestScale = scaleOf(low, high, bits, grid, scaleType), bestZero = zeroOf(low, bestScale, bits, grid);
  if (bestScale == Infinity) return;
  bestError = Infinity, heldFrom = -1;
  inverse = min<f32>(1 / max<f32>(abs<f32>(low), abs<f32>(high)), 1e36);
  const extreme = -low > high ? low : high;
  for (let i: i32 = 0; i < STEPS; i++) {
    let s: f32, z: i32 = 0;
    if (signed) s = signedScale(extreme, i);
    else {
      const shrink = <f32>(1 - <f64>i / 100);
      s = scaleOf(shrink * low, shrink * high, bits, grid, scaleType), z = zeroOf(shrink * low, s, bits, grid);
    }
    consider(s, z);
    if (objective == 1) {
      correlate(s, z);
      const fit = square == 0 ? <f32>0 : <f32>(product / square);
      const refitted = copysign<f32>(roundScale(abs<f32>(fit), scaleType), fit);
      if ((signed ? abs<f32>(refitted) : refitted) >= smallestScale(scaleType)) consider(refitted, z);
    }
  }
}

export function search_params(thread: i32): void {
  const scale = tensor(2), zero = tensor(3), R = dim(0), A = dim(2), B = dim(3);
  const rows = scalarU(2), columns = scalarU(3);
  weights = tensor(0), importance = tensor(1), type = dtype(0), C = dim(1);
  bits = scalarU(0), grid = scalarU(1), scaleType = scalarU(4), objective = scalarU(5), signed = scalarU(6) != 0;
  buffer = scratch(thread), held = buffer + ((2048 + 16) << 2), heldImportance = held + ((HELD + 4) << 2);
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
