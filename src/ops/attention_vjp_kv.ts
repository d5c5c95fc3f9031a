/** Backward through attention, for its keys and values. */
import wgsl from "../../shaders/attention_vjp_kv.wgsl" with { type: "text" };
import scores from "../../shaders/attention_scores.wgsl" with { type: "text" };
import tiles from "../../shaders/attention_tiles.wgsl" with { type: "text" };
import { defineOp } from "../op.ts";
import { attention, queriesOf } from "./attention.ts";
import { checkAttentionVjp, QUERY_FACTS } from "./attention_vjp_q.ts";
import { SOFT_CAP_WGSL } from "./soft_cap.ts";

/**
 * Of the gradient g by the output of {@linkcode attention}, and of what `attention_vjp_q` has found
 * of each query, the gradients dk and dv by k and v: sums over all queries that see a key, and over
 * all heads that share it.
 */
export const attentionVjpKv = defineOp({
  name: "attention_vjp_kv",
  inputs: {
    q: "f32[T, Q]",
    k: "f32[T, K]",
    v: "f32[T, K]",
    bias: "f32[B, S]",
    facts: "f32[T, P]",
    g: "f32[T, Q]",
  },
  outputs: { dk: "f32[T, K]", dv: "f32[T, K]" },
  scalars: attention.scalars,
  wgsl: SOFT_CAP_WGSL + scores + tiles + wgsl,
  workgroups: ({ T = 0, K = 0 }, { head_dim = 1, length = 1 }) => [
    T / length * Math.ceil(length / 32),
    K / head_dim,
    Math.ceil(head_dim / 64),
  ],
  check: checkAttentionVjp,
  reference(arrays, dims, scalars) {
    const { q, v, facts, g, dk, dv } = arrays;
    const { T = 0, Q = 0, K = 0, P = 0 } = dims;
    const { head_dim = 1, scale = 0, cap = 0 } = scalars;
    const sums = { k: new Float64Array(T * K), v: new Float64Array(T * K) };
    for (const query of queriesOf(arrays, dims, scalars)) {
      const { i, head, keys, from, capped, scores } = query;
      const at = i * Q + head * head_dim;
      const fact = i * P + QUERY_FACTS * head;
      const [most, total, along] = [facts![fact]!, facts![fact + 1]!, facts![fact + 2]!];
      scores.forEach((score, n) => {
        const place = (from + n) * K + keys;
        const weight = Math.exp(score - most) / total;
        let toward = 0;
        for (let d = 0; d < head_dim; d++) toward += g![at + d]! * v![place + d]!;
        const slope = cap === 0 ? 1 : 1 - (capped[n]! / cap) ** 2;
        const back = weight * (toward - along) * slope * scale;
        for (let d = 0; d < head_dim; d++) {
          sums.k[place + d]! += back * q![at + d]!;
          sums.v[place + d]! += weight * g![at + d]!;
        }
      });
    }
    dk!.set(sums.k);
    dv!.set(sums.v);
  },
});
