/** Backward through KL divergence, for training on what a model predicts. */
import wgsl from "../../shaders/divergence_vjp.wgsl" with { type: "text" };
import { defineOp } from "../op.ts";
import { divergence } from "./divergence.ts";

/**
 * The gradient of each token's KL(p‖q) by the logits q, in place: softmax(q) − softmax(p), for a
 * slice of the vocabulary. `state` is what `divergence` gathered over all of it.
 */
export const divergenceVjp = defineOp({
  name: "divergence_vjp",
  inputs: { p: "f32[T, V]", state: "f32[T, S]" },
  outputs: { q: "f32[T, V]" },
  wgsl,
  workgroups: divergence.workgroups,
  check: divergence.check!,
  reference({ p, state, q }, { T = 0, V = 0, S = 0 }) {
    for (let t = 0; t < T; t++) {
      const [topP = 0, sumP = 1, topQ = 0, sumQ = 1] = Array.from(
        state!.subarray(t * S, t * S + 4),
      );
      for (let i = t * V; i < (t + 1) * V; i++) {
        q![i] = Math.exp(q![i]! - topQ) / sumQ - Math.exp(p![i]! - topP) / sumP;
      }
    }
  },
});
