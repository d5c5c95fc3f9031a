/** Instead of `tile_range` and `scale_params`, where a better scale than the range's is asked for. */
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
} from "./grid.ts";

/** What one tile is quantized with. */
type Params = ReturnType<typeof scaleOf>;

/** Shrink factors tried: 1, 0.99, … 0.21 (GPTQ's grid of 100 and maxshrink of 0.8). */
const STEPS = 80;
/** GPTQ's exponent of the error. */
const NORM = 2.4;

/**
 * Scale and zero point of every tile by search: the range is shrunk in 80 steps and the error of rounding to it measured.
 * `objective` 0 is GPTQ's p-norm Σ|ŵ − w|^2.4; 1 is the Frobenius norm Σ(ŵ − w)², where each step also tries the scale
 * refitted to its codes by least squares, Σw(q−z)/Σ(q−z)², with the weights rounded again. The first strictly smaller
 * error wins. A tile that is not finite has scale +∞.
 */
export const searchParams = defineOp({
  name: "search_params",
  inputs: { w: "f32|bf16|f16[R, C]" },
  outputs: { scale: "f32[A, B]", zero: "i8[A, B]" },
  scalars: {
    bits: "u32",
    grid: "u32",
    tile_rows: "u32",
    tile_columns: "u32",
    scale_dtype: "u32",
    objective: "u32",
  },
  wgsl,
  workgroups: ({ A = 0, B = 0 }) => fold(Math.ceil(A * B / 4)),
  check(dims, scalars) {
    const verdict = checkGrid(scalars);
    if (verdict !== true) return verdict;
    if (scalars.grid === 3) return "a search is for integer grids 0 to 2, got grid 3 (fp8)";
    if (scalars.objective !== 0 && scalars.objective !== 1) {
      return `objective must be 0 (p-norm) or 1 (Frobenius), got ${scalars.objective}`;
    }
    return checkTiles(dims, scalars);
  },
  reference({ w, scale, zero }, dims, scalars) {
    eachTile(dims, scalars, (tile, elements) => {
      const best = searchTile(Array.from(elements, (i) => w![i]!), scalars);
      scale![tile] = best.scale;
      zero![tile] = best.zero;
    });
  },
});

function searchTile(weights: readonly number[], scalars: Scalars): Params {
  const { low, high } = rangeOf(weights, [...weights.keys()]);
  let best = scaleOf(low, high, scalars);
  if (!Number.isFinite(best.scale)) return best;
  let least = Infinity;
  const consider = (params: Params) => {
    const error = searchError(weights, params, scalars);
    if (error < least) [best, least] = [params, error];
  };
  for (let i = 0; i < STEPS; i++) {
    const shrink = Math.fround(1 - i / 100);
    const params = scaleOf(Math.fround(shrink * low), Math.fround(shrink * high), scalars);
    consider(params);
    const refitted = scalars.objective === 1 && refit(weights, params, scalars);
    if (refitted) consider(refitted);
  }
  return best;
}

/** The error a search compares: of rounding `weights` with one scale and zero point. */
export function searchError(
  weights: readonly number[],
  params: Params,
  scalars: Scalars,
): number {
  const range = codeRange(scalars);
  let error = 0;
  for (const weight of weights) {
    const code = codeOf(weight, { ...params, ...range });
    const size = Math.abs((code - params.zero) * params.scale - weight);
    error += scalars.objective === 0 ? size ** NORM : size * size;
  }
  return error;
}

/** The least-squares scale for the codes that `params` gives, or undefined where there is no positive normal one. */
function refit(weights: readonly number[], params: Params, scalars: Scalars): Params | undefined {
  const range = codeRange(scalars);
  let product = 0;
  let square = 0;
  for (const weight of weights) {
    const level = codeOf(weight, { ...params, ...range }) - params.zero;
    product += weight * level;
    square += level * level;
  }
  const { dtype, smallest } = SCALE_DTYPES[scalars.scale_dtype!]!;
  const scale = square === 0 ? 0 : roundTo(dtype, Math.fround(product / square));
  return scale >= smallest ? { scale, zero: params.zero } : undefined;
}
