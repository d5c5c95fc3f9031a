/** Residual connections. */
import wgsl from "../../shaders/add.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";

/** x = times·x + other·y. */
export const add = defineOp({
  name: "add",
  inputs: { y: "f32[N]" },
  outputs: { x: "f32[N]" },
  scalars: { times: "f32", other: "f32" },
  wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  reference({ y, x }, { N = 0 }, { times = 1, other = 1 }) {
    for (let i = 0; i < N; i++) x![i] = times * x![i]! + other * y![i]!;
  },
});
