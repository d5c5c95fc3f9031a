/**
 * What coordinate descent leaves to scales: with codes held, the scale of each row's group that
 * costs least, by the inputs' Gram matrix.
 */
import wgsl from "../../shaders/refit_scales.wgsl" with { type: "text" };
import { roundHalfEven, roundTo } from "../number.ts";
import { defineOp, fold } from "../op.ts";
import { checkGrid, checkParts, partOf, SCALE_DTYPES } from "./grid.ts";

/**
 * Column `tile` of scales, of the values in columns `first` … `first + count` of w: each becomes s
 * + s·ρ where ½·tr(E·H'·Eᵀ) is least with codes held, ρ = −Σ w·g'/Σ w·m', rounded to its dtype, if
 * that lowers the sum and keeps its sign. H', e, g and the grid of w·factor are those of
 * `descend_block`; m is w·H of these columns alone, g' and m' are g and m with the damping, damp·e
 * and damp·w. Values become codes times the new scale, over the factor; e and loss[r] follow.
 */
export const refitScales = defineOp({
  name: "refit_scales",
  inputs: { factor: "f32[G, C]", g: "f32[R, K]", m: "f32[R, K]" },
  outputs: { w: "f32[R, C]", e: "f32[R, C]", scale: "f32[R, B]", loss: "f32[R]" },
  scalars: { first: "u32", count: "u32", tile: "u32", scale_dtype: "u32", damp: "f32" },
  wgsl,
  workgroups: ({ R = 0 }) => fold(R),
  check(dims, scalars) {
    const { C = 0, K = 0, B = 0 } = dims;
    const { first = 0, count = 0, tile = 0, damp = 0 } = scalars;
    if (count < 1 || count > K || first + count > C || tile >= B) {
      return `a group has 1 to ${K} of ${C} columns and one of ${B} scales, got ${count} from ${first} on and scale ${tile}`;
    }
    const parts = checkParts(dims);
    if (parts !== true) return parts;
    return damp >= 0 ? checkGrid(scalars) : `damp must be at least 0, got ${damp}`;
  },
  reference({ factor, g, m, w, e, scale, loss }, dims, scalars) {
    const { R = 0, C = 0, K = 0, B = 0, G = 1 } = dims;
    const { first = 0, count = 0, tile = 0, scale_dtype = 0, damp = 0 } = scalars;
    const { dtype, smallest } = SCALE_DTYPES[scale_dtype]!;
    for (let r = 0; r < R; r++) {
      let [slope, curvature] = [0, 0];
      for (let i = 0; i < count; i++) {
        const at = r * C + first + i;
        const size = w![at]!;
        slope += size * (g![r * K + i]! + damp * e![at]!);
        curvature += size * (m![r * K + i]! + damp * size);
      }
      const before = scale![r * B + tile]!;
      const after = roundTo(dtype, Math.fround(before - before * (slope / curvature)));
      const part = (after - before) / before;
      const change = part * (slope + part * curvature / 2);
      const usable = curvature > 0 && Number.isFinite(after) && after / before > 0 &&
        Math.abs(after) >= smallest;
      if (!(usable && change < 0)) continue;
      for (let i = 0; i < count; i++) {
        const at = r * C + first + i;
        const by = factor![partOf(r, R, G) * C + first + i]!;
        const code = roundHalfEven(Math.fround(w![at]! * by / before));
        const value = Math.fround(code * after / by);
        e![at]! += value - w![at]!;
        w![at] = value;
      }
      scale![r * B + tile] = after;
      loss![r]! += change;
    }
  },
});
