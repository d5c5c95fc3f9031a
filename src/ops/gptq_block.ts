/**
 * The inner loop of GPTQ (Frantar et al., arXiv 2210.17323, algorithm 1): a block of columns, one
 * after the other.
 */
import wgsl from "../../shaders/gptq_block.wgsl" with { type: "text" };
import { defineOp, fold } from "../op.ts";
import { checkParts, checkTiles, partOf, tileOf } from "./grid.ts";
import { checkValues, NEAREST_WGSL, nearestValue } from "./nearest.ts";

/** The most columns of a block. */
export const GPTQ_BLOCK = 64;

/**
 * Columns `first` … `first + count` of w, whose columns are in the order `order`: with what the
 * columns before left to them taken off, each becomes the nearest value of its grid, q, and its
 * error e = (w − q)/v[c, c] is taken off the columns after it in the block, times v. `v` holds rows
 * `panel` … of V = Uᵀ, U the upper Cholesky factor of H⁻¹. Errors of columns before the block are
 * the caller's affair. loss[r] grows by Σ e²/2. Scales are those of the tiles of the weight as its
 * columns were before. The grid is that of the weight with its columns multiplied: of w·factor, and
 * what is nearest there is divided again; rows are in G equal parts, each with factors of its own.
 */
export const gptqBlock = defineOp({
  name: "gptq_block",
  inputs: {
    v: "f32[P, C]",
    scale: "f32[A, B]",
    zero: "i8[A, B]",
    order: "u32[C]",
    factor: "f32[G, C]",
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
  },
  wgsl: NEAREST_WGSL + wgsl,
  workgroups: ({ R = 0 }) => fold(Math.ceil(R / 64)),
  work: ({ R = 0 }, { count = 0 }) => R * count * count * 4,
  check(dims, scalars) {
    const { P = 0, C = 0 } = dims;
    const { first = 0, count = 0, panel = 0 } = scalars;
    const verdict = checkValues(scalars);
    if (verdict !== true) return verdict;
    if (count < 1 || count > GPTQ_BLOCK || first + count > C) {
      return `a block has 1 to ${GPTQ_BLOCK} of ${C} columns, got ${count} from ${first} on`;
    }
    if (panel > first || first + count > panel + P) {
      return `rows ${first} to ${first + count} of v are not inside those from ${panel} to ${
        panel + P
      }`;
    }
    const parts = checkParts(dims);
    return parts === true ? checkTiles(dims, scalars) : parts;
  },
  reference({ v, scale, zero, order, factor, w, e, loss }, dims, scalars) {
    const { R = 0, C = 0, G = 1 } = dims;
    const { first = 0, count = 0, panel = 0 } = scalars;
    for (let r = 0; r < R; r++) {
      let sum = 0;
      for (let i = 0; i < count; i++) {
        const column = first + i;
        const row = (column - panel) * C;
        let weight = w![r * C + column]!;
        for (let k = 0; k < i; k++) weight -= e![r * C + first + k]! * v![row + first + k]!;
        const tile = tileOf(r, order![column]!, dims, scalars);
        const by = factor![partOf(r, R, G) * C + order![column]!]!;
        const params = { scale: scale![tile]!, zero: zero![tile]! };
        const value = Math.fround(nearestValue(weight * by, params, scalars) / by);
        const error = (weight - value) / v![row + column]!;
        w![r * C + column] = value;
        e![r * C + column] = error;
        sum += error * error / 2;
      }
      loss![r]! += sum;
    }
  },
});
