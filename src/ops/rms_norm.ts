/** The norm of Llama, Qwen, Mistral, Gemma and their kin, of whole rows or of each head. */
import wgsl from "../../shaders/rms_norm.wgsl" with { type: "text" };
import { defineOp, fold } from "../op.ts";
import { type Seen, someRows, U } from "../sampling.ts";

/**
 * Half the D roundings of the sum (the root halves them), and some units for the root, its inverse,
 * the weight and two products.
 */
function rmsBound({ want, before: { weight }, scalars, dims: { D = 0 } }: Seen): Float64Array {
  const { plus = 0 } = scalars;
  // Where a weight is about −1, rounding their sum counts for more.
  const worse = (i: number) => {
    const w = Math.abs(weight![i % D]!);
    return plus === 0 ? 1 : (w + plus) / Math.max(1e-30, Math.abs(weight![i % D]! + plus));
  };
  return Float64Array.from(want.y!, (value, i) => ((D / 2 + 10) + worse(i)) * U * Math.abs(value));
}

/**
 * x / sqrt(mean(x²) + eps) · (weight + plus), over each run of D columns of a row (RMSNorm, arXiv
 * 1910.07467). D = C is a whole row; Gemma stores weights less 1.
 */
export const rmsNorm = defineOp({
  name: "rms_norm",
  inputs: { x: "f32[T, C]", weight: "f32|bf16|f16[D]" },
  outputs: { y: "f32[T, C]" },
  scalars: { eps: "f32", plus: "f32" },
  wgsl,
  workgroups: ({ T = 0, C = 0, D = 1 }) => fold(T * C / D),
  check: ({ C = 0, D = 0 }) => D > 0 && C % D === 0 || `C = ${C} is not a multiple of D = ${D}`,
  sampling: {
    part: ({ T = 0, C = 0 }, _scalars, draw) => ({
      ranges: { T: someRows(T, draw, { width: C }) },
    }),
    bounds: { y: rmsBound },
  },
  reference({ x, weight, y }, { T = 0, C = 0, D = 0 }, { eps = 0, plus = 0 }) {
    for (let first = 0; first < T * C; first += D) {
      let square = 0;
      for (let c = 0; c < D; c++) square += x![first + c]! ** 2;
      const factor = 1 / Math.sqrt(square / D + eps);
      for (let c = 0; c < D; c++) y![first + c] = x![first + c]! * factor * (weight![c]! + plus);
    }
  },
});
