/** Where to go by gradients of steps before too (Adam, Kingma and Ba, arXiv 1412.6980). */
import wgsl from "../../shaders/adam.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";

/**
 * m = decay_m·m + (1 − decay_m)·g and v = decay_v·v + (1 − decay_v)·g², the running means of the
 * gradient and of its square; then g = m·gain_m/√(v·gain_v), which is the direction of a step,
 * about as long as 1 where gradients agree. Gains are 1/(1 − decayᵗ) at step t: means begin at 0.
 * Where v is 0, g becomes 0. Without decay that is the sign of the gradient.
 */
export const adam = defineOp({
  name: "adam",
  inputs: {},
  outputs: { g: "f32[N]", m: "f32[N]", v: "f32[N]" },
  scalars: { decay_m: "f32", decay_v: "f32", gain_m: "f32", gain_v: "f32" },
  wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  check(_dims, { decay_m = 0, decay_v = 0, gain_m = 0, gain_v = 0 }) {
    const decays = [decay_m, decay_v];
    if (!decays.every((decay) => decay >= 0 && decay < 1)) {
      return `decays must be at least 0 and below 1, got ${decays.join(" and ")}`;
    }
    return (gain_m > 0 && gain_v > 0) || `gains must be above 0, got ${gain_m} and ${gain_v}`;
  },
  reference({ g, m, v }, { N = 0 }, { decay_m = 0, decay_v = 0, gain_m = 1, gain_v = 1 }) {
    for (let i = 0; i < N; i++) {
      const slope = g![i]!;
      m![i] = decay_m * m![i]! + (1 - decay_m) * slope;
      v![i] = decay_v * v![i]! + (1 - decay_v) * slope * slope;
      g![i] = v![i]! > 0 ? m![i]! * gain_m / Math.sqrt(v![i]! * gain_v) : 0;
    }
  },
});
