/** Residual connections. */
import wgsl from "../../shaders/add.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { ELEMENTWISE, type Seen, U } from "../sampling.ts";

/** Two products and a sum; a sum alone is exact. */
function addBound({ before: { x, y }, scalars: { times = 1, other = 1 } }: Seen): Float64Array {
  const roundings = times === 1 && Math.abs(other) === 1 ? 0 : 3;
  return Float64Array.from(
    x!,
    (value, i) => roundings * U * (Math.abs(times * value) + Math.abs(other * y![i]!)),
  );
}

/** x = times·x + other·y. */
export const add = defineOp({
  name: "add",
  inputs: { y: "f32[N]" },
  outputs: { x: "f32[N]" },
  scalars: { times: "f32", other: "f32" },
  wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  sampling: { ...ELEMENTWISE, updates: true, bounds: { x: addBound } },
  reference({ y, x }, { N = 0 }, { times = 1, other = 1 }) {
    for (let i = 0; i < N; i++) x![i] = times * x![i]! + other * y![i]!;
  },
});
