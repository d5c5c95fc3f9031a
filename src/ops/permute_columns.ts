/**
 * For GPTQ's column order and for the scales that AWQ and SmoothQuant move: columns of a matrix
 * reordered and multiplied.
 */
import wgsl from "../../shaders/permute_columns.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { checkParts, partOf } from "./grid.ts";

/** y[r, i] = w[r, order[i]]·factor[g, order[i]], g the one of G equal parts of the rows with r. */
export const permuteColumns = defineOp({
  name: "permute_columns",
  inputs: { w: "f32[R, C]", order: "u32[C]", factor: "f32[G, C]" },
  outputs: { y: "f32[R, C]" },
  wgsl,
  workgroups: ({ R = 0, C = 0 }) => spread(R * C),
  check: checkParts,
  reference({ w, order, factor, y }, { R = 0, C = 0, G = 1 }) {
    for (let r = 0; r < R; r++) {
      for (let i = 0; i < C; i++) {
        const column = order![i]!;
        y![r * C + i] = w![r * C + column]! * factor![partOf(r, R, G) * C + column]!;
      }
    }
  },
});
