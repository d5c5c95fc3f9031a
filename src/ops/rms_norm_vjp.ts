/** Backward through the norm of Llama and its kin. */
import wgsl from "../../shaders/rms_norm_vjp.wgsl" with { type: "text" };
import { defineOp } from "../op.ts";
import { rmsNorm } from "./rms_norm.ts";

/**
 * The gradient g by the output of `rms_norm`, in place, becomes that by its input x, over each run
 * of D columns: with r = 1/√(mean(x²) + eps) and h = g·(weight + plus), r·(h − x·r²·mean(x·h)).
 */
export const rmsNormVjp = defineOp({
  name: "rms_norm_vjp",
  inputs: rmsNorm.inputs,
  outputs: { g: "f32[T, C]" },
  scalars: rmsNorm.scalars,
  wgsl,
  workgroups: rmsNorm.workgroups,
  check: rmsNorm.check,
  reference({ x, weight, g }, { T = 0, C = 0, D = 0 }, { eps = 0, plus = 0 }) {
    for (let first = 0; first < T * C; first += D) {
      let [square, along] = [0, 0];
      for (let c = 0; c < D; c++) {
        square += x![first + c]! ** 2;
        along += x![first + c]! * g![first + c]! * (weight![c]! + plus);
      }
      const factor = 1 / Math.sqrt(square / D + eps);
      const back = factor ** 2 * along / D;
      for (let c = 0; c < D; c++) {
        const h = g![first + c]! * (weight![c]! + plus);
        g![first + c] = factor * (h - x![first + c]! * back);
      }
    }
  },
});
