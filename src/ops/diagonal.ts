/**
 * What the host must know of a Gram matrix, and how much an error in each column counts once it is
 * factored.
 */
import wgsl from "../../shaders/diagonal.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";

/**
 * y[order[first + i]] = m[i, first + i], or 1/m[i, first + i]² if `inverse_square` is 1: of V = Uᵀ
 * that is the weight of a column's error in GPTQ's loss. m holds rows `first` … `first + P` of a
 * square matrix.
 */
export const diagonal = defineOp({
  name: "diagonal",
  inputs: { m: "f32[P, C]", order: "u32[C]" },
  outputs: { y: "f32[C]" },
  scalars: { first: "u32", inverse_square: "u32" },
  wgsl,
  workgroups: ({ P = 0 }) => spread(P),
  check: ({ P = 0, C = 0 }, { first = 0 }) =>
    first + P <= C || `rows ${first} to ${first + P} are not inside ${C}`,
  reference({ m, order, y }, { P = 0, C = 0 }, { first = 0, inverse_square = 0 }) {
    for (let i = 0; i < P; i++) {
      const value = m![i * C + first + i]!;
      y![order![first + i]!] = inverse_square ? 1 / (value * value) : value;
    }
  },
});
