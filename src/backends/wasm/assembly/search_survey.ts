// All candidates of a tile at once, for least squares on the symmetric grids. With a = Σ by·w², b =
// Σ by·w·l and c = Σ by·l² over the weights w, what they count for, and their levels l by a scale,
// the error of these levels with a scale f is a − f·(2b − f·c). While scales shrink, a level
// changes a few times only: what a change adds to b and c is kept with the candidate where it
// happens, and a running sum gives b and c of each. Only candidates that come near the least of
// these errors are computed weight by weight, so that the scale is the one that trying all of them
// finds.
import { promoteHigh, sum2 } from "./math";
import { roundScale4, smallestScale } from "./quantize";
import { AFFINE, bestError, candidate, clippedBy, consider, grid, hasOpposite, HELD, held,
  heldImportance, highestCode, hold, leastSquares, levelsAtReach, lowestCode, reach, scaleType,
  signed, size, startCandidates, steps, topLevels } from "./search_tile";

/** Candidates of a survey. */
const MOST: i32 = 2048;

/** How far errors may be from those computed weight by weight, relatively. */
const MARGIN: f64 = 1e-4;
/** What f32 may lose of a candidate's error before its scale is fitted. */
const NOISE: f64 = 1e-6;
/** An error that is less of a than this has lost too many digits. */
const LEAST_PART: f64 = 1e-7;

// Thread-private: candidate j is number `first` + j. Its levels at reach; what begins with it
// of b and c, for the scale and its opposite; the errors of both; the scale, and 1 / scale.
let first: i32 = 0;
let spans: usize = 0, changes: usize = 0, errors: usize = 0, scales: usize = 0, inverses: usize = 0;
// What is known of four weights.
let lanes: usize = 0;

/**
 * Whether this is for the grid and the objective of `search_tile.ts`. bf16 has 128 scales an
 * octave: where candidates are more, most are the same as another, and trying the rest is less
 * work.
 */
export function canSurvey(): bool {
  return leastSquares && grid != AFFINE && (scaleType != 1 || steps <= 128);
}

/** Make ready for the grid of `search_tile.ts`, in 64 bytes of memory for a candidate, and 128. */
export function startSurvey(scratch: usize): void {
  first = -steps - 16;
  spans = scratch, changes = spans + <usize>MOST * 8, errors = changes + <usize>MOST * 32;
  scales = errors + <usize>MOST * 16, inverses = scales + <usize>MOST * 4;
  lanes = inverses + <usize>MOST * 4 + 32;
  for (let j: i32 = 0; j < MOST; j++) store<f64>(spans + (<usize>j << 3), levelsAtReach(first + j));
  memory.fill(changes, 0, <usize>MOST * 32);
}

/** Scales of candidates 0 to n − 1, of which there are a few more, and an infinite inverse. */
function makeInverses(n: i32): void {
  const span = f64x2.splat(<f64>reach);
  for (let j: i32 = 0; j < n; j += 4) {
    const p = spans + (<usize>j << 3);
    const low = f32x4.demote_f64x2_zero(f64x2.div(span, v128.load(p)));
    const high = f32x4.demote_f64x2_zero(f64x2.div(span, v128.load(p, 16)));
    const four = roundScale4(v128.shuffle<i64>(low, high, 0, 2), scaleType);
    v128.store(scales + (<usize>j << 2), four);
    v128.store(inverses + (<usize>j << 2), f32x4.div(f32x4.splat(1), four));
  }
  v128.store(inverses + (<usize>n << 2), f32x4.splat(Infinity));
}

// a of the tile; b and c of candidate 0.
let a: f64 = 0, b: f64 = 0, c: f64 = 0;

/** Keep with each of n candidates the levels that change with it. */
function gatherChanges(n: i32): void {
  const widest = v128.load32_splat(inverses),
    narrowest = v128.load32_splat(inverses + (<usize>(n - 1) << 2));
  const unit = f32x4.splat(reach / <f32>topLevels), outermost = f32x4.splat(<f32>-lowestCode);
  // The outermost level of the full grid is for weights below 0, and for those above with the
  // opposite scale.
  const above = f32x4.splat(<f32>(signed ? -lowestCode : highestCode));
  let sumA = f64x2.splat(0), sumB = sumA, sumC = sumA;
  for (let from: i32 = 0; from < size; from += HELD) {
    const count = min(HELD, size - from);
    hold(from, count);
    for (let i: i32 = 0; i < count; i += 4) {
      const weight = v128.load(held + (<usize>i << 2)), w = f32x4.abs(weight);
      const by = v128.load(heldImportance + (<usize>i << 2));
      const level = f32x4.nearest(f32x4.mul(w, widest));
      const most = v128.bitselect(above, outermost, f32x4.gt(weight, f32x4.splat(0)));
      const last = f32x4.pmin(most, f32x4.nearest(f32x4.mul(w, narrowest)));
      const byLow = f64x2.promote_low_f32x4(by), byHigh = promoteHigh(by);
      const low = f64x2.promote_low_f32x4(w), high = promoteHigh(w);
      const levelLow = f64x2.promote_low_f32x4(level), levelHigh = promoteHigh(level);
      const productLow = f64x2.mul(byLow, low), productHigh = f64x2.mul(byHigh, high);
      sumA = f64x2.add(sumA, f64x2.add(f64x2.mul(productLow, low), f64x2.mul(productHigh, high)));
      sumB = f64x2.add(sumB,
        f64x2.add(f64x2.mul(productLow, levelLow), f64x2.mul(productHigh, levelHigh)));
      sumC = f64x2.add(sumC, f64x2.add(f64x2.mul(byLow, f64x2.mul(levelLow, levelLow)),
        f64x2.mul(byHigh, f64x2.mul(levelHigh, levelHigh))));
      if (!v128.any_true(f32x4.lt(level, last))) continue;
      v128.store(lanes, w), v128.store(lanes, f32x4.div(unit, w), 16), v128.store(lanes, level, 32);
      v128.store(lanes, last, 48), v128.store(lanes, by, 64), v128.store(lanes, weight, 80);
      for (let lane = lanes, end = lanes + 16; lane < end; lane += 4) gatherLane(lane);
    }
  }
  a = sum2(sumA), b = sum2(sumB), c = sum2(sumC);
}

/** The changes of one weight of the four in `lanes`. */
@inline
function gatherLane(lane: usize): void {
  // A scale is two steps from where its number says at most, and f32 may lose one more.
  const shift = 23 - ctz(steps), before = first + 1 + (steps >> 8) + (0x3f800000 >> shift);
  const w = v128.load32_splat(lane), per = load<f32>(lane, 16), last = load<f32>(lane, 48);
  const by: f64 = load<f32>(lane, 64), product = f64x2.splat(by * load<f32>(lane));
  for (let level = load<f32>(lane, 32); level < last; level += 1) {
    // From some steps before the scale with which this weight is half way to the next level.
    let j = max(0, (reinterpret<i32>((level + 0.5) * per) >> shift) - before), under: i32 = 0;
    for (; ; j += 4) {
      const near = f32x4.nearest(f32x4.mul(w, v128.load(inverses + (<usize>j << 2))));
      under = i32x4.bitmask(f32x4.le(near, f32x4.splat(level)));
      if (under != 15) break;
    }
    const place = changes + (<usize>(j + ctz(~under)) << 5), square = by * (2 * level + 1);
    const one = level >= <f32>highestCode && (signed || load<f32>(lane, 80) > 0);
    if (!one) {
      v128.store(place, f64x2.add(v128.load(place), product));
      v128.store(place, f64x2.add(v128.load(place, 16), f64x2.splat(square)), 16);
    } else {
      const half = place + (load<f32>(lane, 80) > 0 ? 8 : 0);
      store<f64>(half, load<f64>(half) + f64x2.extract_lane(product, 0));
      store<f64>(half, load<f64>(half, 16) + square, 16);
    }
  }
}

/** a − f·(2b − f·c) */
@inline
function errorWith(f: v128, b: v128, c: v128): v128 {
  return f64x2.sub(f64x2.splat(a), f64x2.mul(f, f64x2.sub(f64x2.add(b, b), f64x2.mul(f, c))));
}

/** The least that the errors of n candidates may be computed to be; the least of all. */
function sumChanges(n: i32): f64 {
  const all = f64x2.splat(a);
  let sumB = f64x2.splat(b), sumC = f64x2.splat(c), least = f64x2.splat(Infinity);
  for (let j: i32 = 0; j < n; j++) {
    const place = changes + (<usize>j << 5);
    sumB = f64x2.add(sumB, v128.load(place)), sumC = f64x2.add(sumC, v128.load(place, 16));
    v128.store(place, i64x2.splat(0)), v128.store(place, i64x2.splat(0), 16);
    const fitted = f64x2.promote_low_f32x4(
      roundScale4(f32x4.demote_f64x2_zero(f64x2.div(sumB, sumC)), scaleType));
    const scale = f64x2.promote_low_f32x4(v128.load32_splat(scales + (<usize>j << 2)));
    const before = f64x2.mul(f64x2.splat(NOISE), errorWith(scale, sumB, sumC));
    // Codes that are all 0 have no scale: NaN is not less than a.
    const error = f64x2.pmin(all, f64x2.sub(errorWith(fitted, sumB, sumC), before));
    v128.store(errors + (<usize>j << 4), error);
    least = f64x2.pmin(least, error);
  }
  return min(f64x2.extract_lane(least, 0), f64x2.extract_lane(least, 1));
}

/** Whether the error of candidate j or of its opposite is at most this. */
@inline
function isWithin(j: i32, most: v128): bool {
  return v128.any_true(f64x2.le(v128.load(errors + (<usize>j << 4)), most));
}

/** Consider candidate j and its opposite where their errors are at most this. */
function considerWithin(j: i32, most: f64): void {
  const place = errors + (<usize>j << 4), s = candidate(first + j);
  if (load<f64>(place) <= most) consider(s, 0);
  if (load<f64>(place, 8) <= most && hasOpposite(s)) consider(-s, 0);
}

/**
 * Search the tile. False where this does not serve: scales near the ends of their dtype, more
 * candidates than a survey has, errors with too few digits, or a candidate that may come after the
 * one at which the search ends.
 */
export function surveyTile(scale: f32): bool {
  // A scale fitted to codes is half of the one that gave them to one and a half times that.
  if (!(candidate(first) < 32768)) return false;
  startCandidates(scale, 0);
  consider(candidate(0), 0);
  if (!(bestError < Infinity)) return false;
  // The search ends where what is clipped costs as much as the best found, if not before.
  const stride = max(4, steps >> 3);
  let n = 2 * stride - first;
  while (n + 8 < MOST && !(clippedBy(candidate(first + n), 0) >= bestError)) n += stride;
  if (n + 8 >= MOST || candidate(first + n) < 4 * smallestScale(scaleType)) return false;
  makeInverses(n);
  gatherChanges(n);
  const least = sumChanges(n);
  let at: i32 = 0;
  for (const four = f64x2.splat(least); at < n && !isWithin(at, four);) at++;
  startCandidates(scale, 0);
  considerWithin(at, least);
  if (!(bestError <= least * (1 + MARGIN) && least > LEAST_PART * a)) return false;
  const most = bestError * (1 + MARGIN), near = f64x2.splat(most);
  startCandidates(scale, 0);
  let last: i32 = -1;
  for (let j = -first; j < n; j++) if (isWithin(j, near)) considerWithin(j, most), last = j;
  if (last >= 0 && clippedBy(candidate(first + last), 0) > (1 - 8 * MARGIN) * most) return false;
  for (let j = -first - 1; j >= 0; j--) if (isWithin(j, near)) considerWithin(j, most);
  return true;
}
