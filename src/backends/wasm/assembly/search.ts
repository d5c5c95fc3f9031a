// The search for scales (src/ops/search_params.ts). Terms are f32, sums of some dozens of them f32,
// sums of those f64. A candidate is given up once what has been summed shows that it cannot win; so
// the definition's scale is found unless two candidates' errors are within 1e-5 of each other.
import { claim, dim, dtype, scalarU, scratch, tensor } from "./call";
import { run } from "./cast";
import { pow24, promoteHigh, sum2 } from "./math";
import { roundScale, scaleOf, smallestScale, zeroOf } from "./quantize";
import { extendRange, highest, lowest, startRange } from "./range";

const AFFINE: i32 = 2;
const MOST_STEPS: i32 = 512;
/** Floats of a tile held widened in scratch; a larger tile is widened again for every candidate. */
const HELD: i32 = 1 << 16;
/** Terms between two looks whether a candidate can still win. */
const LOOK: i32 = 32;

// Thread-private: the tile at work, its grid, the candidates so far.
let weights: usize = 0, importance: usize = 0, type: i32 = 0, C: i32 = 0;
let firstColumn: i32 = 0, width: i32 = 0, firstRow: i32 = 0, size: i32 = 0;
let held: usize = 0, heldImportance: usize = 0, buffer: usize = 0, heldFrom: i32 = -1;
let grid: i32 = 0, scaleType: i32 = 0, objective: i32 = 0, signed: bool = false;
let steps: i32 = 0, lowestCode: i32 = 0, highestCode: i32 = 0, topLevels: f64 = 0;
let low: f32 = 0, high: f32 = 0, reach: f32 = 0, norm: f32 = 0;
let bestScale: f32 = 0, bestZero: i32 = 0, bestError: f64 = 0;

/**
 * Bring elements [from, from + count) of the tile, row after row, into `held`, with zeros up to a
 * multiple of 4, and what they count for.
 */
function hold(from: i32, count: i32): void {
  if (heldFrom == from) return;
  heldFrom = from;
  let out: usize = 0;
  for (let i: i32 = 0; i < count;) {
    const r = (from + i) / width, c = (from + i) % width, n = min(min(width - c, count - i), 2048);
    memory.copy(held + out, run(weights, (firstRow + r) * C + firstColumn + c, n, type, buffer),
      <usize>n << 2);
    memory.copy(heldImportance + out, importance + (<usize>(firstColumn + c) << 2), <usize>n << 2);
    out += <usize>n << 2;
    i += n;
  }
  v128.store(held + out, i32x4.splat(0));
  v128.store(heldImportance + out, i32x4.splat(0));
}

/**
 * Four levels: those nearest to weights over the scale whose inverse this is. At a tie either is
 * right, their errors being equal.
 */
@inline
function levels4(w: v128, inverse: v128, bottom: v128, top: v128): v128 {
  return f32x4.pmin(top, f32x4.pmax(bottom, f32x4.nearest(f32x4.mul(w, inverse))));
}

/** What four errors cost, of the p-norm or squared. */
@inline
function costs4(e: v128): v128 {
  return objective == 0 ? pow24(f32x4.mul(f32x4.abs(e), f32x4.splat(norm))) : f32x4.mul(e, e);
}

@inline
function sum4(v: v128): f64 {
  return sum2(f64x2.add(f64x2.promote_low_f32x4(v), promoteHigh(v)));
}

/**
 * The error of rounding with this scale and zero point; gives up, with some larger number, once it
 * reaches `most`.
 */
function errorOf(s: f32, z: i32, most: f64): f64 {
  const scale = f32x4.splat(s), inverse = f32x4.splat(1 / s);
  const bottom = f32x4.splat(<f32>(lowestCode - z)), top = f32x4.splat(<f32>(highestCode - z));
  let error: f64 = 0;
  for (let from: i32 = 0; from < size; from += HELD) {
    const count = min(HELD, size - from);
    hold(from, count);
    for (let i: i32 = 0; i < count && !(error >= most); i += LOOK) {
      let p = held + (<usize>i << 2), by = heldImportance + (<usize>i << 2), sum = f32x4.splat(0);
      for (const end = held + (<usize>min(count, i + LOOK) << 2); p < end; p += 16) {
        const w = v128.load(p), e = f32x4.relaxed_nmadd(levels4(w, inverse, bottom, top), scale, w);
        sum = f32x4.add(sum, f32x4.mul(costs4(e), v128.load(by)));
        by += 16;
      }
      error += sum4(sum);
    }
  }
  return error;
}

/** What weights further out than the levels cost. */
function clipped(bottomLevel: i32, topLevel: i32, s: f32): f64 {
  const bottom = f32x4.splat(<f32>bottomLevel * s), top = f32x4.splat(<f32>topLevel * s);
  const none = f32x4.splat(0);
  let cost: f64 = 0;
  for (let from: i32 = 0; from < size && !(cost >= bestError); from += HELD) {
    const count = min(HELD, size - from);
    hold(from, count);
    let sum = f64x2.splat(0);
    for (let i: usize = 0, end = <usize>count << 2; i < end; i += 16) {
      const w = v128.load(held + i);
      const out = f32x4.pmax(none, f32x4.pmax(f32x4.sub(bottom, w), f32x4.sub(w, top)));
      if (!v128.any_true(out)) continue;
      const c = f32x4.mul(costs4(out), v128.load(heldImportance + i));
      sum = f64x2.add(sum, f64x2.add(f64x2.promote_low_f32x4(c), promoteHigh(c)));
    }
    cost += sum2(sum);
  }
  return cost;
}

function take(s: f32, z: i32, error: f64): void {
  if (error < bestError) bestScale = s, bestZero = z, bestError = error;
}

/**
 * Take the codes of this scale with the stored scale that fits them best, if they have the least
 * error so far.
 */
function consider(s: f32, z: i32): void {
  if (objective == 0) return take(s, z, errorOf(s, z, bestError));
  const scale = f32x4.splat(s), inverse = f32x4.splat(1 / s);
  const bottom = f32x4.splat(<f32>(lowestCode - z)), top = f32x4.splat(<f32>(highestCode - z));
  let error: f64 = 0, product: f64 = 0, square: f64 = 0;
  for (let from: i32 = 0; from < size; from += HELD) {
    const count = min(HELD, size - from);
    hold(from, count);
    for (let i: i32 = 0; i < count; i += LOOK) {
      let p = held + (<usize>i << 2), by = heldImportance + (<usize>i << 2);
      let a = f32x4.splat(0), b = a, c = a;
      for (const end = held + (<usize>min(count, i + LOOK) << 2); p < end; p += 16) {
        const w = v128.load(p), level = levels4(w, inverse, bottom, top);
        // Where the CPU does not fuse the two, a perfect fit has an error of some last bits.
        const e = f32x4.relaxed_nmadd(level, scale, w);
        const counts = v128.load(by), weighed = f32x4.mul(counts, e);
        a = f32x4.relaxed_madd(weighed, e, a);
        b = f32x4.relaxed_madd(weighed, level, b);
        c = f32x4.relaxed_madd(f32x4.mul(counts, level), level, c);
        by += 16;
      }
      error += sum4(a), product += sum4(b), square += sum4(c);
      // These weights alone, with the scale that is best for them: error − product²/square.
      if (error >= bestError && (error - bestError) * square >= product * product) return;
    }
  }
  const magnitude = roundScale(abs<f32>(<f32>(s + product / square)), scaleType);
  // Codes that are all 0 fit any scale.
  const usable = square > 0 && magnitude >= smallestScale(scaleType) && magnitude < Infinity;
  if (!usable) return take(s, z, error);
  const fitted = copysign<f32>(magnitude, s), step = <f64>fitted - s;
  take(fitted, z, error - step * (2 * product - step * square));
}

/** Candidate `k` of the positive scales. */
function candidate(k: i32): f32 {
  // Steps are a power of two, so that the quotient is exact.
  const octave = k >> (31 - clz(steps)), part = <f64>(k - octave * steps) / steps;
  const levels = topLevels * reinterpret<f64>(<u64>(octave + 1023) << 52) * (1 + part);
  return max<f32>(roundScale(<f32>(reach / levels), scaleType), smallestScale(scaleType));
}

@inline
function codeNear(x: f32): i32 {
  return <i32>min<f32>(max<f32>(x, <f32>lowestCode), <f32>highestCode);
}

/** The zero point of a scale with the least error; the lowest of equally good ones. */
function zeroFor(s: f32): i32 {
  if (grid != AFFINE) return 0;
  // From that with which nothing is clipped above to that with which nothing is clipped below.
  let to = codeNear(<f32>lowestCode - nearest<f32>(min<f32>(0, low) / s));
  let from = min(to, codeNear(<f32>highestCode - nearest<f32>(max<f32>(0, high) / s)));
  while (from < to) {
    const middle = (from + to) >> 1, here = errorOf(s, middle, Infinity);
    if (errorOf(s, middle + 1, here) < here) from = middle + 1;
    else to = middle;
  }
  return to;
}

/** Consider a scale with its best zero point and, where signs make a difference, its opposite. */
function considerBoth(s: f32, z: i32): void {
  consider(s, z);
  if (signed && reach > (<f32>highestCode + 0.5) * s) consider(-s, z);
}

function searchTile(): void {
  const smallest = smallestScale(scaleType), affine = grid == AFFINE;
  if (reach == 0) return;
  bestError = Infinity, heldFrom = -1;
  norm = min<f32>(1 / reach, 1e36);
  let last: f32 = 0;
  for (let k: i32 = 0; last != smallest; k++) {
    const s = candidate(k);
    if (s == last) continue;
    const z = zeroFor(s);
    const bottom = affine ? lowestCode - z - 1 : lowestCode;
    const top = affine ? highestCode - z + 1 : -lowestCode;
    if (clipped(bottom, top, s) >= bestError) break;
    considerBoth(s, z);
    last = s;
  }
  last = candidate(0);
  for (let k: i32 = -1; k >= -steps - 16; k--) {
    const s = candidate(k);
    if (s == last || !(s < Infinity)) continue;
    considerBoth(s, zeroFor(s));
    last = s;
  }
}

export function search_params(thread: i32): void {
  const scale = tensor(2), zero = tensor(3), R = dim(0), A = dim(2), B = dim(3);
  const bits = scalarU(0), rows = scalarU(2), columns = scalarU(3);
  weights = tensor(0), importance = tensor(1), type = dtype(0), C = dim(1);
  grid = scalarU(1), scaleType = scalarU(4), objective = scalarU(5), signed = scalarU(6) != 0;
  steps = min(MOST_STEPS, 1 << (bits + 2));
  topLevels = <f64>(1 << (grid == AFFINE ? bits : bits - 1));
  highestCode = (1 << (bits - 1)) - 1, lowestCode = grid == 1 ? -highestCode : -highestCode - 1;
  buffer = scratch(thread), held = buffer + ((2048 + 16) << 2),
    heldImportance = held + ((HELD + 4) << 2);
  for (let tile = claim(); tile < A * B; tile = claim()) {
    firstRow = tile / B * rows, firstColumn = tile % B * columns;
    width = min(columns, C - firstColumn), size = width * min(rows, R - firstRow);
    startRange();
    for (let r = firstRow, end = min(R, firstRow + rows); r < end; r++) {
      extendRange(weights, r * C + firstColumn, width, type, buffer);
    }
    low = lowest(), high = highest();
    reach = max<f32>(abs<f32>(low), abs<f32>(high));
    if (grid == AFFINE) reach = max<f32>(0, high) - min<f32>(0, low);
    bestScale = scaleOf(low, high, bits, grid, scaleType);
    bestZero = zeroOf(low, bestScale, bits, grid);
    if (bestScale < Infinity) searchTile();
    store<f32>(scale + (<usize>tile << 2), bestScale);
    store<i8>(zero + <usize>tile, <i8>bestZero);
  }
}
