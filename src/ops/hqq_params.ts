/** Half-quadratic quantization (HQQ; Badri and Shaji, 2023): scales and zero points from the weights alone, by a norm that forgives outliers. */
import wgsl from "../../shaders/hqq_params.wgsl" with { type: "text" };
import { roundHalfEven, roundTo } from "../number.ts";
import { defineOp, fold, type Scalars } from "../op.ts";
import {
  checkGrid,
  checkTiles,
  clamp,
  codeOf,
  codeRange,
  eachTile,
  rangeOf,
  SCALE_DTYPES,
  scaleOf,
} from "./grid.ts";

/** What one tile is quantized with. */
type Params = ReturnType<typeof scaleOf>;

/** HQQ's own constants: p of the norm, β of the first iteration, by what it grows, iterations. */
export const HQQ = { norm: 0.7, beta: 10, growth: 1.01, iterations: 20 } as const;

/**
 * Scale and zero point of every tile. From those of the range on, in turn: codes q to the nearest; of the error w − ŵ what outliers have too much,
 * e = sign(w − ŵ)·max(0, |w − ŵ| − |w − ŵ|^(p−1)/β); and with t = w − e the zero point that fits best, z + mean(q − z − t/s)
 * rounded (affine grids), and the least-squares scale, Σ t(q−z)/Σ (q−z)², rounded to its dtype. β grows by 1 %; it ends after 20 turns or when the
 * mean of |w − ŵ| no longer falls, with the last that it fell to. With `guard` the range's parameters, or the rival's, are taken where their
 * squared error is smaller. A tile that is not finite has scale +∞.
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
  wgsl,
  workgroups: ({ A = 0, B = 0 }) => fold(Math.ceil(A * B / 4)),
  work: ({ R = 0, C = 0 }) => R * C * HQQ.iterations * 8,
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
        for (const other of scalars.guard ? [start, rival] : []) {
          if (errorOf(weights, other, scalars, 2) < errorOf(weights, best, scalars, 2)) {
            best = other;
          }
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
  params: Params,
  scalars: Scalars,
  power: 1 | 2,
): number {
  const range = codeRange(scalars);
  return weights.reduce((sum, w) => {
    const level = codeOf(w, { ...params, ...range }) - params.zero;
    return sum + Math.abs(w - level * params.scale) ** power;
  }, 0);
}

function solve(weights: readonly number[], start: Params, scalars: Scalars): Params {
  let [best, least] = [start, Infinity];
  let current: Params | undefined = start;
  for (let i = 0, beta = HQQ.beta; i < HQQ.iterations && current; i++, beta *= HQQ.growth) {
    const error = errorOf(weights, current, scalars, 1);
    if (!(error < least)) break;
    [best, least] = [current, error];
    current = improve(weights, current, { beta, scalars });
  }
  return best;
}

/** One turn: parameters for the codes that `params` gives, or undefined where no scale is a normal number. */
function improve(
  weights: readonly number[],
  { scale, zero }: Params,
  { beta, scalars }: { beta: number; scalars: Scalars },
): Params | undefined {
  const range = codeRange(scalars);
  const fits = weights.map((w) => {
    const level = codeOf(w, { scale, zero, ...range }) - zero;
    const error = w - level * scale;
    const size = Math.abs(error);
    const excess = size > 0 ? Math.max(0, size - size ** (HQQ.norm - 1) / beta) : 0;
    return { level, target: (w - Math.sign(error) * excess) / scale };
  });
  const off = fits.reduce((sum, { level, target }) => sum + level - target, 0) / fits.length;
  const shift = scalars.grid === 2
    ? clamp(zero + roundHalfEven(Math.fround(off)), range.low, range.high) - zero
    : 0;
  let [product, square] = [0, 0];
  for (const { level, target } of fits) {
    product += target * (level - shift);
    square += (level - shift) ** 2;
  }
  const { dtype, smallest } = SCALE_DTYPES[scalars.scale_dtype!]!;
  const fitted = square > 0 ? roundTo(dtype, Math.fround(scale * (product / square))) : 0;
  if (!(fitted >= smallest && fitted < Infinity)) return undefined;
  return { scale: fitted, zero: zero + shift };
}
