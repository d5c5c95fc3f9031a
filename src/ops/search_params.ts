/** Instead of `tile_range` and `scale_params`, where a better scale than the range's is asked for. */
import tile from "../../shaders/tile.wgsl" with { type: "text" };
import wgsl from "../../shaders/search_params.wgsl" with { type: "text" };
import { roundTo } from "../number.ts";
import { defineOp, fold, type Scalars } from "../op.ts";
import {
  checkGrid,
  checkTiles,
  codeOf,
  codeRange,
  eachTile,
  rangeOf,
  SCALE_DTYPES,
  scaleOf,
  type TileParams,
} from "./grid.ts";

/** Candidates tried. */
const STEPS = 80;
/** GPTQ's exponent of the error. */
const NORM = 2.4;

/**
 * Scale and zero point of every tile by search among 80 candidates. They are the range shrunk by 1, 0.99, … 0.21 (GPTQ's grid of 100 and
 * maxshrink of 0.8); with `signed` (grid 0) they are scales of either sign, ∓1.1, 1.08, … 0.32 times the largest weight over 2^(b−1), so that it
 * meets the lowest code, which has no opposite. `objective` 0 is GPTQ's p-norm Σ importance·|ŵ − w|^2.4; 1 is Σ importance·(ŵ − w)², where
 * each candidate is also tried with its scale refitted to its codes by least squares, Σ importance·w(q−z)/Σ importance·(q−z)², and the weights
 * rounded again. The importance is that of the column. The first strictly smaller error wins. A tile that is not finite has scale +∞.
 */
export const searchParams = defineOp({
  name: "search_params",
  inputs: { w: "f32|bf16|f16[R, C]", importance: "f32[C]" },
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
  check(dims, scalars) {
    const verdict = checkGrid(scalars);
    if (verdict !== true) return verdict;
    if (scalars.grid === 3) return "a search is for integer grids 0 to 2, got grid 3 (fp8)";
    if (scalars.objective !== 0 && scalars.objective !== 1) {
      return `objective must be 0 (p-norm) or 1 (Frobenius), got ${scalars.objective}`;
    }
    if (scalars.signed && scalars.grid !== 0) {
      return `scales of either sign are for grid 0 (full), got grid ${scalars.grid}`;
    }
    return checkTiles(dims, scalars);
  },
  reference({ w, importance, scale, zero }, dims, scalars) {
    const { C = 1 } = dims;
    eachTile(dims, scalars, (tile, elements) => {
      const weights = Array.from(elements, (i) => ({ w: w![i]!, by: importance![i % C]! }));
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

function searchTile(weights: readonly Weighed[], scalars: Scalars): TileParams {
  const { low, high } = rangeOf(weights.map(({ w }) => w), [...weights.keys()]);
  let best = scaleOf(low, high, scalars);
  if (!Number.isFinite(best.scale)) return best;
  let least = Infinity;
  const consider = (params: TileParams) => {
    const error = searchError(weights, params, scalars);
    if (error < least) [best, least] = [params, error];
  };
  for (let i = 0; i < STEPS; i++) {
    const params = scalars.signed
      ? signedScale(-low > high ? low : high, i, scalars)
      : shrunkenRange(low, high, i, scalars);
    consider(params);
    const refitted = scalars.objective === 1 && refit(weights, params, scalars);
    if (refitted) consider(refitted);
  }
  return best;
}

function shrunkenRange(low: number, high: number, i: number, scalars: Scalars): TileParams {
  const shrink = Math.fround(1 - i / 100);
  return scaleOf(Math.fround(shrink * low), Math.fround(shrink * high), scalars);
}

/** Candidate `i` of the signed ones, for a tile whose largest weight is `extreme`: 40 with which it meets the lowest code, 40 with its opposite. */
function signedScale(
  extreme: number,
  i: number,
  { bits = 0, scale_dtype = 0 }: Scalars,
): TileParams {
  if (extreme === 0) return { scale: 1, zero: 0 };
  const part = Math.fround((110 - 2 * (i % 40)) / 100);
  const scale = stored(Math.fround(part * extreme) / 2 ** (bits - 1), scale_dtype);
  return { scale: i < 40 ? -scale : scale, zero: 0 };
}

/** A scale as it is stored: rounded to its dtype, and no smaller than its smallest normal number. */
function stored(scale: number, scale_dtype: number): number {
  const { dtype, smallest } = SCALE_DTYPES[scale_dtype]!;
  const rounded = roundTo(dtype, scale);
  return Math.abs(rounded) >= smallest ? rounded : Math.sign(scale) * smallest;
}

/** The error a search compares: of rounding `weights` with one scale and zero point. */
export function searchError(
  weights: readonly Weighed[],
  params: TileParams,
  scalars: Scalars,
): number {
  const range = codeRange(scalars);
  let error = 0;
  for (const { w, by } of weights) {
    const code = codeOf(w, { ...params, ...range });
    const size = Math.abs((code - params.zero) * params.scale - w);
    error += by * (scalars.objective === 0 ? size ** NORM : size * size);
  }
  return error;
}

/** The least-squares scale for the codes that `params` gives, or undefined where there is no normal one of a sign that is allowed. */
function refit(
  weights: readonly Weighed[],
  params: TileParams,
  scalars: Scalars,
): TileParams | undefined {
  const range = codeRange(scalars);
  let product = 0;
  let square = 0;
  for (const { w, by } of weights) {
    const level = codeOf(w, { ...params, ...range }) - params.zero;
    product += by * w * level;
    square += by * level * level;
  }
  const { dtype, smallest } = SCALE_DTYPES[scalars.scale_dtype!]!;
  const scale = square === 0 ? 0 : roundTo(dtype, Math.fround(product / square));
  const usable = (scalars.signed ? Math.abs(scale) : scale) >= smallest;
  return usable ? { scale, zero: params.zero } : undefined;
}
