/** The middle of a gated MLP. */
import wgsl from "../../shaders/silu_mul.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";

/** gate = silu(gate)·up, in place: the gated activation of SwiGLU (arXiv 2002.05202). */
export const siluMul = defineOp({
  name: "silu_mul",
  inputs: { up: "f32[N]" },
  outputs: { gate: "f32[N]" },
  wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  reference({ up, gate }, { N = 0 }) {
    for (let i = 0; i < N; i++) gate![i] = gate![i]! / (1 + Math.exp(-gate![i]!)) * up![i]!;
  },
});
