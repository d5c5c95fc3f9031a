/** Differences of two streams of hidden states. */
import wgsl from "../../shaders/subtract.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";

/** y = a − b. */
export const subtract = defineOp({
  name: "subtract",
  inputs: { a: "f32[N]", b: "f32[N]" },
  outputs: { y: "f32[N]" },
  wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  reference({ a, b, y }, { N = 0 }) {
    for (let i = 0; i < N; i++) y![i] = a![i]! - b![i]!;
  },
});
