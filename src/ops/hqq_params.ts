/**
 * Half-quadratic quantization (HQQ; Badri and Shaji, 2023): scales and zero points from the weights
 * alone, by a norm that forgives outliers.
 */
import tile from "../../shaders/tile.wgsl" with { type: "text" };
import wgsl from "../../shaders/hqq_params.wgsl" with { type: "text" };
import { Least } from "./least.ts";
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

/** HQQ's own constants: p of the norm, β of the first iteration, by what it grows, iterations. */
export const HQQ = { norm: 0.7, beta: 10, growth: 1.01, iterations: 20 } as const;

/**
 * Scale and zero point of every tile. From those of the range on, in turn: codes q to the nearest;
 * of the error w − ŵ what outliers have too much, e = sign(w − ŵ)·max(0, |w − ŵ| − |w −
 * ŵ|^(p−1)/β); and with t = w − e the least-squares scale, Σ t(q−z)/Σ (q−z)², rounded to its dtype.
 * β grows by 1 %; it ends after 20 turns or when the mean of |w − ŵ| no longer falls, with the last
 * that it fell to. On affine grids all of it is done with the range's zero point, the one below and
 * the one above; the least mean wins. With `guard` the range's parameters, or the rival's, are
 * taken where their squared error is smaller. A tile that is not finite has scale +∞.
 */
export const hqqParams = defineOp({
  name: "hqq_params",
  inputs: { w: "f32|bf16|f16[R, C]", rival_scale: "f32[A, B]", rival_zero: "i8[A, B]" },
  outputs: { scale: "f32[A, B]", zero: "i8[A, B]" },
  scalars: {
    bits: "u32",
    grid: "u32",
    tile_rows: "u32",
    tile_columns: "u32",
    scale_dtype: "u32",
    guard: "u32",
  },
  wgsl: tile + wgsl,
  workgroups: ({ A = 0, B = 0 }) => fold(Math.ceil(A * B / 4)),
  work: ({ R = 0, C = 0 }) => R * C * HQQ.iterations * 16,
  check(dims, scalars) {
    const verdict = checkGrid(scalars);
    if (verdict !== true) return verdict;
    if (scalars.grid === 3) return "HQQ is for integer grids 0 to 2, got grid 3 (fp8)";
    return checkTiles(dims, scalars);
  },
  reference({ w, rival_scale, rival_zero, scale, zero }, dims, scalars) {
    eachTile(dims, scalars, (tile, elements) => {
      const weights = Array.from(elements, (i) => w![i]!);
      const { low, high } = rangeOf(weights, [...weights.keys()]);
      const start = scaleOf(low, high, scalars);
      let best = start;
      if (Number.isFinite(start.scale)) {
        best = solve(weights, start, scalars);
        const rival = { scale: rival_scale![tile]!, zero: rival_zero![tile]! };
        if (scalars.guard) {
          const least = new Least(best);
          for (const each of [best, start, rival]) {
            least.offer(each, errorOf(weights, each, scalars, 2));
          }
          best = least.value;
        }
      }
      scale![tile] = best.scale;
      zero![tile] = best.zero;
    });
  },
});

/** Σ |w − ŵ|^power, what tiles are compared by. */
export function errorOf(
  weights: readonly number[],
  params: TileParams,
  scalars: Scalars,
  power: 1 | 2,
): number {
  const range = codeRange(scalars);
  return weights.reduce((sum, w) => {
    const level = codeOf(w, { ...params, ...range }) - params.zero;
    return sum + Math.abs(w - level * params.scale) ** power;
  }, 0);
}

function solve(weights: readonly number[], start: TileParams, scalars: Scalars): TileParams {
  const { low, high } = codeRange(scalars);
  const best = new Least(start);
  for (const step of scalars.grid === 2 ? [0, -1, 1] : [0]) {
    const zero = start.zero + step;
    if (zero < low || zero > high) continue;
    let [scale, before, beta] = [start.scale, Infinity, HQQ.beta];
    for (let i = 0; i < HQQ.iterations; i++, beta *= HQQ.growth) {
      const error = errorOf(weights, { scale, zero }, scalars, 1);
      if (!(error < before)) break;
      before = error;
      best.offer({ scale, zero }, error);
      const fitted = refit(weights, { scale, zero }, { beta, scalars });
      if (fitted === undefined) break;
      scale = fitted;
    }
  }
  return best.value;
}

/** The scale for the codes that `params` gives, or undefined where it is no normal number. */
function refit(
  weights: readonly number[],
  { scale, zero }: TileParams,
  { beta, scalars }: { beta: number; scalars: Scalars },
): number | undefined {
  const range = codeRange(scalars);
  let [product, square] = [0, 0];
  for (const w of weights) {
    const level = codeOf(w, { scale, zero, ...range }) - zero;
    const error = w - level * scale;
    const size = Math.abs(error);
    const excess = size > 0 ? Math.max(0, size - size ** (HQQ.norm - 1) / beta) : 0;
    product += (w - Math.sign(error) * excess) * level;
    square += level * level;
  }
  const { dtype, smallest } = SCALE_DTYPES[scalars.scale_dtype!]!;
  const fitted = square > 0 ? roundTo(dtype, Math.fround(product / square)) : 0;
  return fitted >= smallest && fitted < Infinity ? fitted : undefined;
}
