/**
 * Instead of `tile_range` and `scale_params`, where a better scale than the range's is asked for.
 */
import tile from "../../shaders/tile.wgsl" with { type: "text" };
import wgsl from "../../shaders/search_params.wgsl" with { type: "text" };
import { Least } from "./least.ts";
import { roundHalfEven, roundTo } from "../number.ts";
import { defineOp, fold, type Scalars } from "../op.ts";
import {
  checkGrid,
  checkParts,
  checkTiles,
  clamp,
  codeOf,
  codeRange,
  eachTile,
  partOf,
  rangeOf,
  SCALE_DTYPES,
  scaleOf,
  type TileParams,
} from "./grid.ts";

/** GPTQ's exponent of the error. */
const NORM = 2.4;

/** The most scales of an octave that are tried: half of those that f16 can store. */
const MOST_STEPS = 512;

/**
 * Scale and zero point of every tile by search. `objective` 1 is least squares, Σ importance·(ŵ −
 * w)²; 0 is GPTQ's p-norm Σ importance·|ŵ − w|^2.4. The importance is that of the column, in each of G equal parts of the rows.
 *
 * Between two scales at which some code changes, the squared error is a parabola in the scale, and
 * the least of all is the least for the right codes. So the codes of many scales are tried, m =
 * 2^(b+2) an octave (at most 512), which moves the largest weight by an eighth of a level or less:
 * reach/t with t = T·2^⌊k/m⌋·(1 + (k mod m)/m). The reach is the largest magnitude and T = 2^(b−1),
 * on the affine grid the range and T = 2^b. With k = 0, 1, … scales shrink until what they clip
 * alone costs as much as the best found; with k = −1, −2, … they grow until half of the codes would
 * do, when half the scale would do, too. `signed` (grid 0) tries each scale that clips with its
 * sign changed, too, so that the lowest code, which has no opposite, may serve either end. On the
 * affine grid each scale has its best zero point, by bisection: the error is convex in it.
 *
 * A candidate's error is that of its codes with the stored scale that fits them best, s + Σ
 * importance·(w − s·l)·l / Σ importance·l² with levels l = q − z (for the p-norm, with its own
 * scale). The first of the least wins; NaN and infinity never do. A tile that is not finite has
 * scale +∞.
 *
 * Against brute force over every scale that can be stored and every zero point
 * (tests/search_test.ts), squared errors of a weight are at most 0.1 % above the least, at 8 bits
 * with f16 or f32 scales 0.3 %; from 6 bits on bf16 scales are the best.
 */
export const searchParams = defineOp({
  name: "search_params",
  inputs: { w: "f32|bf16|f16[R, C]", importance: "f32[G, C]" },
  outputs: { scale: "f32[A, B]", zero: "i8[A, B]" },
  scalars: {
    bits: "u32",
    grid: "u32",
    tile_rows: "u32",
    tile_columns: "u32",
    scale_dtype: "u32",
    objective: "u32",
    signed: "u32",
  },
  wgsl: tile + wgsl,
  workgroups: ({ A = 0, B = 0 }) => fold(Math.ceil(A * B / 4)),
  work: ({ R = 0, C = 0 }, { bits = 0 }) => R * C * stepsOf(bits) * 4,
  check(dims, scalars) {
    const verdict = checkGrid(scalars);
    if (verdict !== true) return verdict;
    if (scalars.grid === 3) return "a search is for integer grids 0 to 2, got grid 3 (fp8)";
    if (scalars.objective !== 0 && scalars.objective !== 1) {
      return `objective must be 0 (p-norm) or 1 (least squares), got ${scalars.objective}`;
    }
    if (scalars.signed && scalars.grid !== 0) {
      return `scales of either sign are for grid 0 (full), got grid ${scalars.grid}`;
    }
    const { R = 0, G = 1 } = dims;
    const parts = checkParts(dims);
    if (parts !== true) return parts;
    if (G > 1 && R / G % scalars.tile_rows! !== 0) {
      return `tiles of ${scalars.tile_rows} rows do not lie within parts of ${R / G}`;
    }
    return checkTiles(dims, scalars);
  },
  reference({ w, importance, scale, zero }, dims, scalars) {
    const { R = 0, C = 1, G = 1 } = dims;
    eachTile(dims, scalars, (tile, elements) => {
      const weights = Array.from(elements, (i) => {
        const part = partOf(Math.floor(i / C), R, G);
        return { w: w![i]!, by: importance![part * C + i % C]! };
      });
      const best = searchTile(weights, scalars);
      scale![tile] = best.scale;
      zero![tile] = best.zero;
    });
  },
});

/** A weight and how much its error counts. */
interface Weighed {
  readonly w: number;
  readonly by: number;
}

/** The range of a tile, and how much of it a scale must reach over. */
interface Range {
  readonly low: number;
  readonly high: number;
  readonly reach: number;
}

function stepsOf(bits: number): number {
  return Math.min(2 ** (bits + 2), MOST_STEPS);
}

function searchTile(weights: readonly Weighed[], scalars: Scalars): TileParams {
  const { low, high } = rangeOf(weights.map(({ w }) => w), [...weights.keys()]);
  const start = scaleOf(low, high, scalars);
  if (!Number.isFinite(start.scale)) return start;
  const { bits = 0, scale_dtype = 0, grid } = scalars;
  const { smallest } = SCALE_DTYPES[scale_dtype]!;
  const range = {
    low,
    high,
    reach: grid === 2
      ? Math.fround(Math.max(0, high) - Math.min(0, low))
      : Math.max(Math.abs(low), Math.abs(high)),
  };
  if (range.reach === 0) return start;
  const best = new Least(start);
  const consider = (params: TileParams) => {
    const fitted = fit(weights, params, scalars);
    best.offer(fitted.params, fitted.error);
  };
  const steps = stepsOf(bits);
  for (let k = 0, last = 0; last !== smallest; k++) {
    const scale = candidate(k, range.reach, scalars);
    if (scale === last) continue;
    const params = { scale, zero: zeroFor(weights, scale, { range, scalars }) };
    if (clipped(weights, params, scalars) >= best.loss) break;
    for (const each of signsOf(params, range, scalars)) consider(each);
    last = scale;
  }
  for (let k = -1, last = candidate(0, range.reach, scalars); k >= -steps - 16; k--) {
    const scale = candidate(k, range.reach, scalars);
    if (scale === last || !Number.isFinite(scale)) continue;
    const params = { scale, zero: zeroFor(weights, scale, { range, scalars }) };
    for (const each of signsOf(params, range, scalars)) consider(each);
    last = scale;
  }
  return best.value;
}

/** Candidate `k` as it is stored: rounded to its dtype, no smaller than its least normal number. */
function candidate(k: number, reach: number, { bits = 0, grid, scale_dtype = 0 }: Scalars): number {
  const steps = stepsOf(bits);
  const octave = Math.floor(k / steps);
  const levels = 2 ** (grid === 2 ? bits : bits - 1) * 2 ** octave * (1 + k / steps - octave);
  const { dtype, smallest } = SCALE_DTYPES[scale_dtype]!;
  return Math.max(roundTo(dtype, Math.fround(reach / levels)), smallest);
}

/** A scale, and its opposite where signs make a difference. */
function signsOf(params: TileParams, { reach }: Range, scalars: Scalars): TileParams[] {
  const clips = reach > (codeRange(scalars).high + 0.5) * params.scale;
  return scalars.signed && clips ? [params, { ...params, scale: -params.scale }] : [params];
}

/** The zero point of a scale with the least error; the lowest of equally good ones. */
function zeroFor(
  weights: readonly Weighed[],
  scale: number,
  { range, scalars }: { readonly range: Range; readonly scalars: Scalars },
): number {
  if (scalars.grid !== 2) return 0;
  const codes = codeRange(scalars);
  const level = (x: number) => roundHalfEven(Math.fround(x / scale));
  // From that with which nothing is clipped above to that with which nothing is clipped below.
  let to = clamp(codes.low - level(Math.min(0, range.low)), codes.low, codes.high);
  let from = Math.min(
    to,
    clamp(codes.high - level(Math.max(0, range.high)), codes.low, codes.high),
  );
  while (from < to) {
    const middle = Math.floor((from + to) / 2);
    const [here, above] = [middle, middle + 1].map((zero) =>
      searchError(weights, { scale, zero }, scalars)
    );
    if (above! < here!) from = middle + 1;
    else to = middle;
  }
  return to;
}

/**
 * No more than what weights beyond the outermost levels cost with this scale, or a smaller one. Of
 * symmetric grids both ends count as the lower, for either sign; of the affine one, whose levels
 * stand elsewhere with another scale, both reach one level further.
 */
function clipped(
  weights: readonly Weighed[],
  { scale, zero }: TileParams,
  scalars: Scalars,
): number {
  const codes = codeRange(scalars);
  const affine = scalars.grid === 2;
  const bottom = (affine ? codes.low - zero - 1 : codes.low) * scale;
  const top = (affine ? codes.high - zero + 1 : -codes.low) * scale;
  return weights.reduce(
    (sum, { w, by }) => sum + by * costOf(Math.max(0, bottom - w, w - top), scalars),
    0,
  );
}

function costOf(error: number, { objective }: Scalars): number {
  return objective === 0 ? Math.abs(error) ** NORM : error * error;
}

/** The error a search compares: of rounding `weights` with one scale and zero point. */
export function searchError(
  weights: readonly Weighed[],
  params: TileParams,
  scalars: Scalars,
): number {
  const range = codeRange(scalars);
  return weights.reduce((sum, { w, by }) => {
    const level = codeOf(w, { ...params, ...range }) - params.zero;
    return sum + by * costOf(w - level * params.scale, scalars);
  }, 0);
}

/** The codes of a scale with the stored scale that fits them best, and their error with it. */
function fit(
  weights: readonly Weighed[],
  params: TileParams,
  scalars: Scalars,
): { readonly params: TileParams; readonly error: number } {
  if (scalars.objective === 0) return { params, error: searchError(weights, params, scalars) };
  const range = codeRange(scalars);
  let [error, product, square] = [0, 0, 0];
  for (const { w, by } of weights) {
    const level = codeOf(w, { ...params, ...range }) - params.zero;
    const residual = w - level * params.scale;
    error += by * residual * residual;
    product += by * residual * level;
    square += by * level * level;
  }
  const { dtype, smallest } = SCALE_DTYPES[scalars.scale_dtype!]!;
  const scale = roundTo(dtype, Math.fround(params.scale + product / square));
  // Codes that are all 0 fit any scale.
  if (!(square > 0 && Math.abs(scale) >= smallest && Math.abs(scale) < Infinity)) {
    return { params, error };
  }
  const step = scale - params.scale;
  return { params: { ...params, scale }, error: error - step * (2 * product - step * square) };
}
