/** Positions of tokens, put into queries and keys. */
import wgsl from "../../shaders/rope.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { type Seen, someRows, U } from "../sampling.ts";

/**
 * Two products and a sum: three roundings of at most |x1·cos| + |x2·sin|; what is not turned is
 * exact.
 */
function ropeBound(
  { before: { x, cos, sin }, dims: { D = 0, H = 1 }, scalars }: Seen,
): Float64Array {
  const { head_dim = 1, adjacent = 0 } = scalars;
  return Float64Array.from(x!, (_, i) => {
    const [t, d] = [Math.floor(i / D), i % D % head_dim];
    if (d >= 2 * H) return 0;
    const [h, second] = adjacent ? [d >> 1, d % 2 === 1] : [d % H, d >= H];
    const step = adjacent ? 1 : H;
    const partner = second ? i - step : i + step;
    const [c, s] = [cos![t * H + h]!, sin![t * H + h]!];
    return 3 * U * (Math.abs(x![i]! * c) + Math.abs(x![partner]! * s));
  });
}

/**
 * Rotary position embedding in place (RoFormer, arXiv 2104.09864): of the first 2H values of each
 * head, pairs (a, b) become (a·cos − b·sin, b·cos + a·sin). Pairs are the values h and h + H, in
 * Hugging Face's rotate-half order, or if `adjacent` 2h and 2h + 1.
 */
export const rope = defineOp({
  name: "rope",
  inputs: { cos: "f32[T, H]", sin: "f32[T, H]" },
  outputs: { x: "f32[T, D]" },
  scalars: { head_dim: "u32", adjacent: "u32" },
  wgsl,
  workgroups: ({ T = 0, H = 0, D = 0 }, { head_dim = 1 }) => spread(T * D / head_dim * H),
  check: ({ D = 0, H = 0 }, { head_dim = 0 }) =>
    head_dim > 0 && D % head_dim === 0 && 2 * H <= head_dim ||
    `D = ${D} must be a multiple of head_dim = ${head_dim}, which must hold 2H = ${2 * H} values`,
  sampling: {
    part: ({ T = 0, D = 0 }, _scalars, draw) => ({
      ranges: { T: someRows(T, draw, { width: D }) },
    }),
    updates: true,
    bounds: { x: ropeBound },
  },
  reference({ cos, sin, x }, { T = 0, D = 0, H = 1 }, { head_dim = 1, adjacent = 0 }) {
    for (let t = 0; t < T; t++) {
      for (let head = 0; head < D; head += head_dim) {
        for (let h = 0; h < H; h++) {
          const first = t * D + head + (adjacent ? 2 * h : h);
          const second = first + (adjacent ? 1 : H);
          const [a, b] = [x![first]!, x![second]!];
          const [c, s] = [cos![t * H + h]!, sin![t * H + h]!];
          x![first] = a * c - b * s;
          x![second] = b * c + a * s;
        }
      }
    }
  },
});
