/** Backward through attention, for its queries. */
import wgsl from "../../shaders/attention_vjp_q.wgsl" with { type: "text" };
import scores from "../../shaders/attention_scores.wgsl" with { type: "text" };
import tiles from "../../shaders/attention_tiles.wgsl" with { type: "text" };
import { defineOp, type Dims, type Scalars } from "../op.ts";
import { attention, checkAttention, queriesOf } from "./attention.ts";
import { SOFT_CAP_WGSL } from "./soft_cap.ts";

/** Numbers that {@linkcode attentionVjpQ} keeps of each query of each head. */
export const QUERY_FACTS = 3;

/** Why dims and scalars of a backward pass do not fit together, or `true`. */
export function checkAttentionVjp(dims: Dims, scalars: Scalars): true | string {
  const { Q = 0, P = 0 } = dims;
  const verdict = checkAttention(dims, scalars);
  if (verdict !== true) return verdict;
  const wanted = QUERY_FACTS * Q / scalars.head_dim!;
  return P === wanted || `facts must have ${wanted} columns, got ${P}`;
}

/**
 * Of the output o of {@linkcode attention} and the gradient g by it, the gradient dq by q, and what
 * `attention_vjp_kv` wants to know: three numbers of each query of each head, its largest score, Σ
 * e^(score − largest), and Σ o·g. With p the weight of a key, the gradient by its score is p·(g·v −
 * Σ o·g); a cap takes the part 1 − (s/cap)² of it.
 */
export const attentionVjpQ = defineOp({
  name: "attention_vjp_q",
  inputs: {
    q: "f32[T, Q]",
    k: "f32[T, K]",
    v: "f32[T, K]",
    bias: "f32[B, S]",
    o: "f32[T, Q]",
    g: "f32[T, Q]",
  },
  outputs: { dq: "f32[T, Q]", facts: "f32[T, P]" },
  scalars: attention.scalars,
  wgsl: SOFT_CAP_WGSL + scores + tiles + wgsl,
  workgroups: attention.workgroups,
  check: checkAttentionVjp,
  reference(arrays, dims, scalars) {
    const { k, v, o, g, dq, facts } = arrays;
    const { Q = 0, K = 0, P = 0 } = dims;
    const { head_dim = 1, scale = 0, cap = 0 } = scalars;
    for (const query of queriesOf(arrays, dims, scalars)) {
      const { i, head, keys, from, capped, scores } = query;
      const at = i * Q + head * head_dim;
      const most = scores.reduce((max, score) => Math.max(max, score), -Infinity);
      const total = scores.reduce((sum, score) => sum + Math.exp(score - most), 0);
      let along = 0;
      for (let d = 0; d < head_dim; d++) along += o![at + d]! * g![at + d]!;
      facts!.set([most, total, along], i * P + QUERY_FACTS * head);
      const slopes = scores.map((score, n) => {
        let toward = 0;
        for (let d = 0; d < head_dim; d++) {
          toward += g![at + d]! * v![(from + n) * K + keys + d]!;
        }
        const slope = cap === 0 ? 1 : 1 - (capped[n]! / cap) ** 2;
        return Math.exp(score - most) / total * (toward - along) * slope * scale;
      });
      for (let d = 0; d < head_dim; d++) {
        let sum = 0;
        slopes.forEach((slope, n) => sum += slope * k![(from + n) * K + keys + d]!);
        dq![at + d] = sum;
      }
    }
  },
});
