// The tile at work of a search for scales: its weights, its grid, what a scale would cost, and the
// best so far. Terms are f32, sums of some dozens of them f32, sums of those f64.
import { run } from "./cast";
import { pow24, promoteHigh, sum2, sum4 } from "./math";
import { roundScale, smallestScale } from "./quantize";
import { extendRange, highest, lowest, startRange } from "./range";

export const AFFINE: i32 = 2;
const MOST_STEPS: i32 = 512;
/** Floats of a tile held widened in scratch; a larger tile is widened again for every candidate. */
export const HELD: i32 = 1 << 16;
/** Floats that are widened at a time. */
const RUN: i32 = 2048;
/** Bytes of scratch memory that a tile takes. */
export const TILE_BYTES: usize = (RUN + 16 + 2 * (HELD + 4)) << 2;
/** Terms between two looks whether a candidate can still win. */
const LOOK: i32 = 32;

// Thread-private, as all that follows: the matrix, the tile's place in it, and what is widened.
let weights: usize = 0, importance: usize = 0, type: i32 = 0, C: i32 = 0;
let firstRow: i32 = 0, firstColumn: i32 = 0, width: i32 = 0;
export let size: i32 = 0;
let buffer: usize = 0, heldFrom: i32 = -1;
export let held: usize = 0, heldImportance: usize = 0;
let norm: f32 = 0;

/** The grid, the dtype of scales, whether squared errors are to be least, with either sign. */
export let grid: i32 = 0, scaleType: i32 = 0, leastSquares: bool = false, signed: bool = false;
export let lowestCode: i32 = 0, highestCode: i32 = 0;
/** Candidates an octave, and the levels that candidate 0 has for what the tile reaches over. */
export let steps: i32 = 0, topLevels: f64 = 0;
/** The range of the tile, and how much of it a scale must reach over. */
export let low: f32 = 0, high: f32 = 0, reach: f32 = 0;

/** The least error so far, and with what. */
export let bestScale: f32 = 0, bestZero: i32 = 0, bestError: f64 = 0;

/** Weights in lines of `columns`, and TILE_BYTES of scratch memory. */
export function setMatrix(w: usize, dtype: i32, columns: i32, scratch: usize): void {
  weights = w, type = dtype, C = columns;
  buffer = scratch, held = buffer + ((RUN + 16) << 2), heldImportance = held + ((HELD + 4) << 2);
}

/** What columns count for. */
export function setImportance(by: usize): void {
  importance = by;
}

export function setGrid(which: i32, bits: i32, scales: i32, squares: bool, eitherSign: bool): void {
  grid = which, scaleType = scales, leastSquares = squares, signed = eitherSign;
  highestCode = (1 << (bits - 1)) - 1, lowestCode = which == 1 ? -highestCode : -highestCode - 1;
  steps = min(MOST_STEPS, 1 << (bits + 2));
  topLevels = <f64>(1 << (which == AFFINE ? bits : bits - 1));
}

/** Turn to a tile. */
export function setTile(row: i32, column: i32, rows: i32, columns: i32): void {
  firstRow = row, firstColumn = column, width = columns, size = rows * columns, heldFrom = -1;
  startRange();
  for (let r = row; r < row + rows; r++) {
    extendRange(weights, r * C + column, columns, type, buffer);
  }
  low = lowest(), high = highest();
  reach = max<f32>(abs<f32>(low), abs<f32>(high));
  if (grid == AFFINE) reach = max<f32>(0, high) - min<f32>(0, low);
  norm = min<f32>(1 / reach, 1e36);
}

/** Forget all candidates; with none better, it is this one. */
export function startCandidates(scale: f32, zero: i32): void {
  bestScale = scale, bestZero = zero, bestError = Infinity;
}

/**
 * Bring elements [from, from + count) of the tile, row after row, into `held`, with zeros up to a
 * multiple of 4, and what they count for.
 */
export function hold(from: i32, count: i32): void {
  if (heldFrom == from) return;
  heldFrom = from;
  let out: usize = 0;
  for (let i: i32 = 0; i < count;) {
    const r = (from + i) / width, c = (from + i) % width, n = min(min(width - c, count - i), RUN);
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
  return leastSquares ? f32x4.mul(e, e) : pow24(f32x4.mul(f32x4.abs(e), f32x4.splat(norm)));
}

/**
 * The error of rounding with this scale and zero point; gives up, with some larger number, once it
 * reaches `most`.
 */
export function errorOf(s: f32, z: i32, most: f64): f64 {
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

/**
 * No more than what weights beyond the outermost levels cost with this scale, or a smaller one;
 * gives up, with some larger number, once it reaches the least error so far.
 */
export function clippedBy(s: f32, z: i32): f64 {
  const affine = grid == AFFINE;
  const bottomLevel = affine ? lowestCode - z - 1 : lowestCode;
  const topLevel = affine ? highestCode - z + 1 : -lowestCode;
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
export function consider(s: f32, z: i32): void {
  if (!leastSquares) return take(s, z, errorOf(s, z, bestError));
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

/** The levels that candidate `k` has for what the tile reaches over. */
export function levelsAtReach(k: i32): f64 {
  // Steps are a power of two, so that the quotient is exact.
  const octave = k >> (31 - clz(steps)), part = <f64>(k - octave * steps) / steps;
  return topLevels * reinterpret<f64>(<u64>(octave + 1023) << 52) * (1 + part);
}

/** Candidate `k` of the positive scales. */
export function candidate(k: i32): f32 {
  const scale = roundScale(<f32>(reach / levelsAtReach(k)), scaleType);
  return max<f32>(scale, smallestScale(scaleType));
}

/** Whether the sign of a scale makes a difference, and may be either. */
@inline
export function hasOpposite(s: f32): bool {
  return signed && reach > (<f32>highestCode + 0.5) * s;
}
