/** The norm of Llama, Qwen, Mistral and their kin. */
import wgsl from "../../shaders/rms_norm.wgsl" with { type: "text" };
import { defineOp, fold } from "../op.ts";

/** x / sqrt(mean(x²) + eps) · weight, a row at a time (RMSNorm, arXiv 1910.07467). */
export const rmsNorm = defineOp({
  name: "rms_norm",
  inputs: { x: "f32[T, C]", weight: "f32|bf16|f16[C]" },
  outputs: { y: "f32[T, C]" },
  scalars: { eps: "f32" },
  wgsl,
  workgroups: ({ T = 0 }) => fold(T),
  reference({ x, weight, y }, { T = 0, C = 0 }, { eps = 0 }) {
    for (let t = 0; t < T; t++) {
      let square = 0;
      for (let c = 0; c < C; c++) square += x![t * C + c]! ** 2;
      const factor = 1 / Math.sqrt(square / C + eps);
      for (let c = 0; c < C; c++) y![t * C + c] = x![t * C + c]! * factor * weight![c]!;
    }
  },
});
