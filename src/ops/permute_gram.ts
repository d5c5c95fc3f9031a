/**
 * The first step of GPTQ's factor: the Gram matrix with its columns in the order they will be
 * quantized in, damped.
 */
import wgsl from "../../shaders/permute_gram.wgsl" with { type: "text" };
import { defineOp, fold } from "../op.ts";

/**
 * Rows `to` … `to + Q` of m, the symmetric matrix h reordered and damped: m[i, j] = h[o(i),
 * o(j)], plus `damp` on the diagonal, for j ≥ i, and 0 below it. `h` holds rows
 * `from` … `from + P` of the matrix; rows of m that come from others stay as they are.
 */
export const permuteGram = defineOp({
  name: "permute_gram",
  inputs: { h: "f32[P, C]", order: "u32[C]" },
  outputs: { m: "f32[Q, C]" },
  scalars: { from: "u32", to: "u32", damp: "f32" },
  wgsl,
  workgroups: ({ Q = 0 }) => fold(Q),
  check: ({ P = 0, Q = 0, C = 0 }, { from = 0, to = 0 }) =>
    (from + P <= C && to + Q <= C) ||
    `rows ${from} to ${from + P} and ${to} to ${to + Q} are not inside ${C}`,
  reference({ h, order, m }, { P = 0, Q = 0, C = 0 }, { from = 0, to = 0, damp = 0 }) {
    for (let i = 0; i < Q; i++) {
      const row = order![to + i]!;
      if (row < from || row >= from + P) continue;
      for (let j = 0; j < C; j++) {
        const column = order![j]!;
        const value = h![(row - from) * C + column]!;
        m![i * C + j] = j < to + i ? 0 : j === to + i ? value + damp : value;
      }
    }
  },
});
