/** The norm of GPT-2, OPT, Falcon and their kin. */
import wgsl from "../../shaders/layer_norm.wgsl" with { type: "text" };
import { defineOp, fold } from "../op.ts";
import { type Seen, someRows, U } from "../sampling.ts";

/**
 * The mean is off by C roundings of the mean |x|, a difference by as much and one rounding, and the
 * root by half the C + 2 roundings of the squares' sum and what those differences come to: the
 * mean's error squared adds to the variance.
 */
function layerNormBound({ before: { x, weight, bias }, want, scalars, dims }: Seen): Float64Array {
  const { T = 0, C = 0 } = dims;
  const allowed = new Float64Array(T * C);
  for (let t = 0; t < T; t++) {
    const row = Array.from(x!.subarray(t * C, (t + 1) * C));
    const size = row.reduce((sum, value) => sum + Math.abs(value), 0) / C;
    const mean = row.reduce((sum, value) => sum + value, 0) / C;
    const variance = row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / C + scalars.eps!;
    const off = (C + 2) * U * size;
    const deviation = Math.sqrt(variance);
    const relative = (C / 2 + 12) * U + 2 * off / deviation + (off / deviation) ** 2;
    row.forEach((value, c) => {
      const w = Math.abs(weight![c]!);
      const own = Math.abs(value - mean) / deviation * w;
      const difference = (off + 2 * U * (Math.abs(value) + size)) / deviation * w;
      const sum = U * (Math.abs(want.y![t * C + c]!) + Math.abs(bias![c]!));
      allowed[t * C + c] = own * relative + difference + 4 * sum;
    });
  }
  return allowed;
}

/**
 * (x − mean(x)) / sqrt(var(x) + eps) · weight + bias, a row at a time; the variance of all C
 * (LayerNorm, arXiv 1607.06450).
 */
export const layerNorm = defineOp({
  name: "layer_norm",
  inputs: { x: "f32[T, C]", weight: "f32|bf16|f16[C]", bias: "f32|bf16|f16[C]" },
  outputs: { y: "f32[T, C]" },
  scalars: { eps: "f32" },
  wgsl,
  workgroups: ({ T = 0 }) => fold(T),
  sampling: {
    part: ({ T = 0, C = 0 }, _scalars, draw) => ({
      ranges: { T: someRows(T, draw, { width: C }) },
    }),
    bounds: { y: layerNormBound },
  },
  reference({ x, weight, bias, y }, { T = 0, C = 0 }, { eps = 0 }) {
    for (let t = 0; t < T; t++) {
      const row = x!.subarray(t * C, (t + 1) * C);
      let mean = 0;
      for (const value of row) mean += value / C;
      let square = 0;
      for (const value of row) square += (value - mean) ** 2;
      const factor = 1 / Math.sqrt(square / C + eps);
      for (let c = 0; c < C; c++) {
        y![t * C + c] = (row[c]! - mean) * factor * weight![c]! + bias![c]!;
      }
    }
  },
});
