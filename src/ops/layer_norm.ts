/** The norm of GPT-2, OPT, Falcon and their kin. */
import wgsl from "../../shaders/layer_norm.wgsl" with { type: "text" };
import { defineOp, fold } from "../op.ts";

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
