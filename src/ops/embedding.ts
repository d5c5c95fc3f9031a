/** The first step of a forward pass; the table comes in slices that fit the device. */
import wgsl from "../../shaders/embedding.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";

/**
 * Rows of a slice of the embedding table: tokens with first ≤ id < first + V get theirs, the
 * others' rows stay as they are.
 */
export const embedding = defineOp({
  name: "embedding",
  inputs: { ids: "u32[T]", table: "f32|bf16|f16[V, C]" },
  outputs: { x: "f32[T, C]" },
  scalars: { first: "u32" },
  wgsl,
  workgroups: ({ T = 0, C = 0 }) => spread(T * C),
  reference({ ids, table, x }, { T = 0, V = 0, C = 0 }, { first = 0 }) {
    for (let t = 0; t < T; t++) {
      const row = ids![t]! - first;
      if (row < 0 || row >= V) continue;
      for (let c = 0; c < C; c++) x![t * C + c] = table![row * C + c]!;
    }
  },
});
