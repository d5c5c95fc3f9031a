/** Positions of tokens, put into queries and keys. */
import wgsl from "../../shaders/rope.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";

/**
 * Rotary position embedding in place (RoFormer, arXiv 2104.09864), in Hugging Face's rotate-half order: each head of 2H values
 * is two halves (a, b), which become (a·cos − b·sin, b·cos + a·sin).
 */
export const rope = defineOp({
  name: "rope",
  inputs: { cos: "f32[T, H]", sin: "f32[T, H]" },
  outputs: { x: "f32[T, D]" },
  wgsl,
  workgroups: ({ T = 0, D = 0 }) => spread(T * D / 2),
  check: ({ D = 0, H = 0 }) =>
    D % (2 * H) === 0 || `D = ${D} is not a multiple of a head of 2H = ${2 * H} values`,
  reference({ cos, sin, x }, { T = 0, D = 0, H = 1 }) {
    for (let t = 0; t < T; t++) {
      for (let head = 0; head < D / (2 * H); head++) {
        for (let h = 0; h < H; h++) {
          const at = t * D + head * 2 * H + h;
          const [a, b] = [x![at]!, x![at + H]!];
          const [c, s] = [cos![t * H + h]!, sin![t * H + h]!];
          x![at] = a * c - b * s;
          x![at + H] = b * c + a * s;
        }
      }
    }
  },
});
