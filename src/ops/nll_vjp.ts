/** Backward through the likelihood of a text, for how much a model's loss depends on its weights. */
import wgsl from "../../shaders/nll_vjp.wgsl" with { type: "text" };
import { defineOp } from "../op.ts";
import { divergence } from "./divergence.ts";

/** The label of a token that predicts nothing: its gradient is 0. */
export const NO_LABEL = 2 ** 32 - 1;

/**
 * The gradient of each token's −log softmax(q)[label] by the logits q, in place: softmax(q) less 1
 * at the label, for the slice [first, first + V) of the vocabulary. `state` is what `divergence`
 * gathered over all of it.
 */
export const nllVjp = defineOp({
  name: "nll_vjp",
  inputs: { labels: "u32[T]", state: "f32[T, S]" },
  outputs: { q: "f32[T, V]" },
  scalars: { first: "u32" },
  wgsl,
  workgroups: divergence.workgroups,
  check: divergence.check!,
  reference({ labels, state, q }, { T = 0, V = 0, S = 0 }, { first = 0 }) {
    for (let t = 0; t < T; t++) {
      const [top = 0, sum = 1] = Array.from(state!.subarray(t * S + 2, t * S + 4));
      for (let v = 0; v < V; v++) {
        const at = t * V + v;
        const chance = Math.exp(q![at]! - top) / sum;
        q![at] = labels![t] === NO_LABEL ? 0 : chance - Number(labels![t] === first + v);
      }
    }
  },
});
