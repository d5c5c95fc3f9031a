/** Backward through the norm of GPT-2, OPT, Falcon and their kin. */
import wgsl from "../../shaders/layer_norm_vjp.wgsl" with { type: "text" };
import { defineOp, fold } from "../op.ts";

/**
 * The gradient g by the output of `layer_norm`, in place, becomes that by its input x: with n the
 * normalized row, r = 1/√(var(x) + eps) and h = g·weight, r·(h − mean(h) − n·mean(n·h)).
 */
export const layerNormVjp = defineOp({
  name: "layer_norm_vjp",
  inputs: { x: "f32[T, C]", weight: "f32|bf16|f16[C]" },
  outputs: { g: "f32[T, C]" },
  scalars: { eps: "f32" },
  wgsl,
  workgroups: ({ T = 0 }) => fold(T),
  reference({ x, weight, g }, { T = 0, C = 0 }, { eps = 0 }) {
    for (let first = 0; first < T * C; first += C) {
      let [mean, middle] = [0, 0];
      for (let c = 0; c < C; c++) {
        mean += x![first + c]! / C;
        middle += g![first + c]! * weight![c]! / C;
      }
      let [square, along] = [0, 0];
      for (let c = 0; c < C; c++) {
        const off = x![first + c]! - mean;
        square += off ** 2;
        along += off * g![first + c]! * weight![c]!;
      }
      const factor = 1 / Math.sqrt(square / C + eps);
      const back = factor ** 2 * along / C;
      for (let c = 0; c < C; c++) {
        const h = g![first + c]! * weight![c]!;
        g![first + c] = factor * (h - middle - (x![first + c]! - mean) * back);
      }
    }
  },
});
