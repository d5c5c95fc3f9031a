/** Backward through the bound of logits. */
import wgsl from "../../shaders/scale_cap_vjp.wgsl" with { type: "text" };
import { defineOp } from "../op.ts";
import { scaleCap } from "./scale_cap.ts";
import { SOFT_CAP_WGSL, softCap } from "./soft_cap.ts";

/**
 * The gradient g by the output of `scale_cap`, in place, becomes that by its input x: times·(1 −
 * tanh²(times·x / cap))·g; times·g where cap is 0.
 */
export const scaleCapVjp = defineOp({
  name: "scale_cap_vjp",
  inputs: { x: "f32[N]" },
  outputs: { g: "f32[N]" },
  scalars: scaleCap.scalars,
  wgsl: SOFT_CAP_WGSL + wgsl,
  workgroups: scaleCap.workgroups,
  check: scaleCap.check,
  reference({ x, g }, { N = 0 }, { times = 1, cap = 0 }) {
    for (let i = 0; i < N; i++) {
      const slope = cap === 0 ? 1 : 1 - (softCap(times * x![i]!, cap) / cap) ** 2;
      g![i]! *= times * slope;
    }
  },
});
