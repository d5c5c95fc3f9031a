/** Factors of embeddings and logits, and the bound of logits. */
import wgsl from "../../shaders/scale_cap.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { SOFT_CAP_WGSL, softCap } from "./soft_cap.ts";

/** x = times·x, then cap·tanh(x / cap) unless cap is 0; in place. */
export const scaleCap = defineOp({
  name: "scale_cap",
  inputs: {},
  outputs: { x: "f32[N]" },
  scalars: { times: "f32", cap: "f32" },
  wgsl: SOFT_CAP_WGSL + wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  check: (_dims, { cap = 0 }) => cap >= 0 || `cap must not be negative, got ${cap}`,
  reference({ x }, { N = 0 }, { times = 1, cap = 0 }) {
    for (let i = 0; i < N; i++) x![i] = softCap(times * x![i]!, cap);
  },
});
