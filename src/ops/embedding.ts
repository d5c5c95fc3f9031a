/** The first step of a forward pass; the table comes in slices that fit the device. */
import wgsl from "../../shaders/embedding.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { stretch } from "../sampling.ts";

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
  sampling: {
    // Two columns of the table: as many as a word holds of narrow floats.
    part: ({ T = 0, C = 0 }, _scalars, draw) => ({
      ranges: {
        T: stretch(T, draw, { most: 256 }),
        C: stretch(C, draw, { most: 2, step: 2 }),
      },
    }),
    updates: true,
  },
  reference({ ids, table, x }, { T = 0, V = 0, C = 0 }, { first = 0 }) {
    for (let t = 0; t < T; t++) {
      const row = ids![t]! - first;
      if (row < 0 || row >= V) continue;
      for (let c = 0; c < C; c++) x![t * C + c] = table![row * C + c]!;
    }
  },
});
