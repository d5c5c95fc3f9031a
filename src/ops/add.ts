/** Residual connections. */
import wgsl from "../../shaders/add.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";

/** x += y. */
export const add = defineOp({
  name: "add",
  inputs: { y: "f32[N]" },
  outputs: { x: "f32[N]" },
  wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  reference({ y, x }, { N = 0 }) {
    for (let i = 0; i < N; i++) x![i]! += y![i]!;
  },
});
