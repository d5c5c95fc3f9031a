/**
 * For the evaluators: perplexity and KL divergence from logits that never exist for the whole
 * vocabulary at once.
 */
import wgsl from "../../shaders/divergence.wgsl" with { type: "text" };
import { defineOp, fold } from "../op.ts";

/** Values of a token's running state. */
const STATE = 10;

/**
 * What perplexity and KL divergence need from the logits p (the original's) and q (the quantized
 * model's), gathered over slices [first, first + V) of the vocabulary. Per token: 0 max p, 1
 * Σe^(p−max p), 2 max q, 3 Σe^(q−max q), 4 Σe^(p−max p)·(p−q), 5 the label's p, 6 the label's q, 7
 * argmax p, 8 argmax q, 9 unused. Start with maxima −3.4028235e38 and the rest 0. A larger maximum
 * rescales the sums gathered so far; of equal logits the first is the argmax. KL(p‖q) = s4/s1 − (ln
 * s1 + s0) + (ln s3 + s2); the label's negative log-likelihood under p = ln s1 + s0 − s5.
 */
export const divergence = defineOp({
  name: "divergence",
  inputs: { p: "f32[T, V]", q: "f32[T, V]", labels: "u32[T]" },
  outputs: { state: "f32[T, S]" },
  scalars: { first: "u32" },
  wgsl,
  workgroups: ({ T = 0 }) => fold(T),
  check: ({ S = 0 }) => S === STATE || `the state has S = ${STATE} values a token, got ${S}`,
  reference({ p, q, labels, state }, { T = 0, V = 0 }, { first = 0 }) {
    for (let t = 0; t < T; t++) {
      const rowP = p!.subarray(t * V, (t + 1) * V);
      const rowQ = q!.subarray(t * V, (t + 1) * V);
      const s = Array.from(state!.subarray(t * STATE, (t + 1) * STATE));
      const before = { p: s[0]!, q: s[2]! };
      rowP.forEach((value, i) => {
        if (value > s[0]!) [s[0], s[7]] = [value, first + i];
      });
      rowQ.forEach((value, i) => {
        if (value > s[2]!) [s[2], s[8]] = [value, first + i];
      });
      s[1]! *= Math.exp(before.p - s[0]!);
      s[4]! *= Math.exp(before.p - s[0]!);
      s[3]! *= Math.exp(before.q - s[2]!);
      rowP.forEach((value, i) => {
        const weight = Math.exp(value - s[0]!);
        s[1]! += weight;
        s[4]! += weight * (value - rowQ[i]!);
        s[3]! += Math.exp(rowQ[i]! - s[2]!);
      });
      const label = labels![t]! - first;
      if (label >= 0 && label < V) [s[5], s[6]] = [rowP[label]!, rowQ[label]!];
      state!.set(s, t * STATE);
    }
  },
});
