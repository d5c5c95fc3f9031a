/** For Gram matrices, of which only the lower half is accumulated. */
import wgsl from "../../shaders/mirror.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";

/**
 * h[i, first + j] = h[j, first + i] for j > i: the square of P columns from `first` on becomes
 * symmetric.
 */
export const mirror = defineOp({
  name: "mirror",
  inputs: {},
  outputs: { h: "f32[P, C]" },
  scalars: { first: "u32" },
  wgsl,
  workgroups: ({ P = 0 }) => spread(P * P),
  check: ({ P = 0, C = 0 }, { first = 0 }) =>
    first + P <= C || `${P} columns from ${first} on are not inside ${C}`,
  reference({ h }, { P = 0, C = 0 }, { first = 0 }) {
    for (let i = 0; i < P; i++) {
      for (let j = i + 1; j < P; j++) h![i * C + first + j] = h![j * C + first + i]!;
    }
  },
});
