/**
 * The inner loop of coordinate descent on a rounded weight (as in QuantEase, arXiv 2309.01885): a
 * block of columns, one after the other.
 */
import wgsl from "../../shaders/descend_block.wgsl" with { type: "text" };
import { defineOp, fold } from "../op.ts";
import { checkParts, checkTiles, partOf, tileOf } from "./grid.ts";
import { checkValues, NEAREST_WGSL, nearestValue } from "./nearest.ts";

/** The most columns of a block. */
export const DESCEND_BLOCK = 64;

/**
 * Columns `first` … `first + count` of values w on a grid, one after the other: each becomes the
 * value nearest to where ½·tr(E·H'·Eᵀ) is least with all others held, if that lowers it. E is the
 * error of w, H' = H + damp·I; `h` holds rows `panel` … of H, e is E, and g is e·H in the columns of
 * the block, as it was before. The grid is that of w·factor, as in `gptq_block`. loss[r] goes down
 * by what the sum does.
 */
export const descendBlock = defineOp({
  name: "descend_block",
  inputs: {
    h: "f32[P, C]",
    factor: "f32[G, C]",
    g: "f32[R, K]",
    scale: "f32[A, B]",
    zero: "i8[A, B]",
  },
  outputs: { w: "f32[R, C]", e: "f32[R, C]", loss: "f32[R]" },
  scalars: {
    first: "u32",
    count: "u32",
    panel: "u32",
    tile_rows: "u32",
    tile_columns: "u32",
    kind: "u32",
    bits: "u32",
    grid: "u32",
    damp: "f32",
  },
  wgsl: NEAREST_WGSL + wgsl,
  workgroups: ({ R = 0 }) => fold(Math.ceil(R / 64)),
  work: ({ R = 0 }, { count = 0 }) => R * count * count * 4,
  check(dims, scalars) {
    const { P = 0, C = 0, K = 0 } = dims;
    const { first = 0, count = 0, panel = 0, damp = 0 } = scalars;
    const verdict = checkValues(scalars);
    if (verdict !== true) return verdict;
    if (count < 1 || count > Math.min(K, DESCEND_BLOCK) || first + count > C) {
      return `a block has 1 to ${DESCEND_BLOCK} of ${C} columns and no more than g (${K}), got ${count} from ${first} on`;
    }
    if (panel > first || first + count > panel + P) {
      return `rows ${first} to ${first + count} of h are not inside those from ${panel} to ${
        panel + P
      }`;
    }
    const parts = checkParts(dims);
    if (parts !== true) return parts;
    return damp >= 0 ? checkTiles(dims, scalars) : `damp must be at least 0, got ${damp}`;
  },
  reference({ h, factor, g, scale, zero, w, e, loss }, dims, scalars) {
    const { R = 0, C = 0, K = 0, G = 1 } = dims;
    const { first = 0, count = 0, panel = 0, damp = 0 } = scalars;
    const moves = new Float64Array(count);
    for (let r = 0; r < R; r++) {
      let sum = 0;
      moves.fill(0);
      for (let i = 0; i < count; i++) {
        const column = first + i;
        const row = (column - panel) * C;
        const at = r * C + column;
        const curvature = h![row + column]! + damp;
        if (!(curvature > 0)) continue;
        let slope = g![r * K + i]! + damp * e![at]!;
        for (let k = 0; k < i; k++) slope += moves[k]! * h![row + first + k]!;
        const tile = tileOf(r, column, dims, scalars);
        const by = factor![partOf(r, R, G) * C + column]!;
        const params = { scale: scale![tile]!, zero: zero![tile]! };
        const target = Math.fround(w![at]! - slope / curvature);
        const value = Math.fround(nearestValue(target * by, params, scalars) / by);
        const move = Math.fround(value - w![at]!);
        const change = move * (slope + move * curvature / 2);
        if (!(change < 0)) continue;
        moves[i] = move;
        w![at] = value;
        e![at]! += move;
        sum += change;
      }
      loss![r]! += sum;
    }
  },
});
