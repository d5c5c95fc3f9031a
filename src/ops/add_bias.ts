/** The bias of a linear. */
import wgsl from "../../shaders/add_bias.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { someRows } from "../sampling.ts";

/** y[t, r] += b[r]. */
export const addBias = defineOp({
  name: "add_bias",
  inputs: { b: "f32|bf16|f16[R]" },
  outputs: { y: "f32[T, R]" },
  wgsl,
  workgroups: ({ T = 0, R = 0 }) => spread(T * R),
  sampling: {
    part: ({ T = 0, R = 0 }, _scalars, draw) => ({
      ranges: { T: someRows(T, draw, { width: R }) },
    }),
    updates: true,
  },
  reference({ b, y }, { T = 0, R = 0 }) {
    for (let t = 0; t < T; t++) {
      for (let r = 0; r < R; r++) y![t * R + r]! += b![r]!;
    }
  },
});
