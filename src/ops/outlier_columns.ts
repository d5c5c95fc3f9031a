/** For LLM.int8(): which columns of the activations stay float. */
import wgsl from "../../shaders/outlier_columns.wgsl" with { type: "text" };
import { defineOp } from "../op.ts";

/**
 * Columns of activations in which some value reaches `threshold` (LLM.int8(), arXiv 2208.07339
 * §3.2), as flags and as a list: columns[0] is their count, columns[1 … count] their ascending
 * indices, the rest 0. Threshold 0 finds none.
 */
export const outlierColumns = defineOp({
  name: "outlier_columns",
  inputs: { x: "f32[T, C]" },
  outputs: { skip: "u32[C]", columns: "u32[D]" },
  scalars: { threshold: "f32" },
  wgsl,
  workgroups: () => [1, 1, 1],
  check: ({ C = 0, D = 0 }) =>
    D === C + 1 || `columns must have D = C + 1 = ${C + 1} places, got ${D}`,
  reference({ x, skip, columns }, { T = 0, C = 0 }, { threshold = 0 }) {
    columns!.fill(0);
    for (let c = 0; c < C; c++) {
      let outlier = false;
      for (let t = 0; t < T; t++) outlier ||= Math.abs(x![t * C + c]!) >= threshold;
      skip![c] = outlier && threshold > 0 ? 1 : 0;
      if (skip![c]) columns![++columns![0]!] = c;
    }
  },
});
