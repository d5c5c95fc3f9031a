/** Differences of two streams of hidden states. */
import wgsl from "../../shaders/subtract.wgsl" with { type: "text" };
import type { Scope, Tensor } from "../backend.ts";
import { defineOp, spread } from "../op.ts";
import { ELEMENTWISE } from "../sampling.ts";

/** y = a − b. */
export const subtract = defineOp({
  name: "subtract",
  inputs: { a: "f32[N]", b: "f32[N]" },
  outputs: { y: "f32[N]" },
  wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  sampling: ELEMENTWISE,
  reference({ a, b, y }, { N = 0 }) {
    for (let i = 0; i < N; i++) y![i] = a![i]! - b![i]!;
  },
});

/** a − b of one shape, f32 in `scope`. */
export function difference(a: Tensor, b: Tensor, scope: Scope): Tensor {
  const y = scope.alloc("f32", a.shape);
  scope.backend.run(subtract, { a, b, y });
  return y;
}
