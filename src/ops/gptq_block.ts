/**
 * The inner loop of GPTQ (Frantar et al., arXiv 2210.17323, algorithm 1): a block of columns, one
 * after the other.
 */
import wgsl from "../../shaders/gptq_block.wgsl" with { type: "text" };
import { defineOp, type Dims, fold, type Scalars } from "../op.ts";
import { type Draw, type Part, type Seen, someRows, stretch, U, type Wrong } from "../sampling.ts";
import { checkParts, checkTiles, partOf, tileOf } from "./grid.ts";
import { checkValues, NEAREST_WGSL, nearestValue } from "./nearest.ts";

/** The most columns of a block. */
export const GPTQ_BLOCK = 64;

/** Some columns of a block and some rows in one tile, to be checked. */
function someColumns(
  { R = 0, C = 0, G = 1 }: Dims,
  { first = 0, count = 0, panel = 0, tile_rows = 1 }: Scalars,
  draw: Draw,
): Part {
  const [row, last] = someRows(R, draw, { width: 4 * C });
  const [tile, part] = [Math.floor(row / tile_rows), partOf(row, R, G)];
  const [from, to] = stretch(count, draw, { most: 2 });
  return {
    ranges: {
      R: [row, Math.min(last, (tile + 1) * tile_rows, (part + 1) * R / G)],
      A: [tile, tile + 1],
      G: [part, part + 1],
      P: [first - panel + from, first - panel + to],
    },
    scalars: { from, to, panel: first + from },
  };
}

/** A column of a row, chosen as it should be or not. */
interface Followed {
  readonly row: number;
  /** (w − q)/v by the q that was chosen, and by how much e may differ from it. */
  readonly error: number;
  readonly allowed: number;
  readonly wrong?: Wrong;
}

/**
 * Codes depend on those before them, so one tie may change a row. The loop is followed with the
 * values that were chosen: each must be a nearest one within the rounding of the weight it was
 * chosen for, and each error that of its value. Scalars `from` and `to` are columns of the block,
 * all unless given.
 */
export function* followColumns(
  { before, got, dims, scalars }: Omit<Seen, "want">,
): Generator<Followed> {
  const { R = 0, C = 0, G = 1 } = dims;
  const { first = 0, count = 0, panel = 0, from = 0, to = count } = scalars;
  const { v, scale, zero, order, factor } = before;
  for (let r = 0; r < R; r++) {
    for (let i = from; i < to; i++) {
      const column = first + i;
      const row = (column - panel) * C;
      const at = r * C + column;
      let weight = before.w![at]!;
      let size = Math.abs(weight);
      for (let k = 0; k < i; k++) {
        const share = got.e![r * C + first + k]! * v![row + first + k]!;
        weight -= share;
        size += Math.abs(share);
      }
      const tile = tileOf(r, order![column]!, dims, scalars);
      const params = { scale: scale![tile]!, zero: zero![tile]! };
      const by = factor![partOf(r, R, G) * C + order![column]!]!;
      // Rounding of the sum, of a product, and of divisions, which WGSL may get wrong by 2.5 units.
      const near = (i + 4) * U * size + 5 * U * Math.abs(weight);
      const values = [-near, 0, near].map((shift) =>
        nearestValue(Math.fround((weight + shift) * by), params, scalars) / by
      );
      const value = got.w![at]!;
      const diagonal = v![row + column]!;
      const error = (weight - value) / diagonal;
      const allowed = (near + 8 * U * Math.abs(value)) / Math.abs(diagonal) +
        4 * U * Math.abs(error);
      const fits = values.some((one) => Math.abs(one - value) <= 8 * U * Math.abs(one) + DUST);
      const wrong = !fits
        ? { output: "w", index: at, right: values[1]!, allowed: 8 * U * Math.abs(values[1]!) }
        : Math.abs(got.e![at]! - error) <= allowed + DUST
        ? undefined
        : { output: "e", index: at, right: error, allowed };
      yield { row: r, error, allowed, ...(wrong ? { wrong } : {}) };
    }
  }
}

/** What numbers that a device may take for 0 come to. */
const DUST = 2 ** -100;

/** The first column that was not chosen as it should be, of finite weights. */
function firstWrong(call: Omit<Seen, "want">): Wrong | undefined {
  if (!call.before.w!.every(Number.isFinite)) return undefined;
  for (const { wrong } of followColumns(call)) {
    if (wrong && Number.isFinite(wrong.right)) return wrong;
  }
  return undefined;
}

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
  sampling: { part: someColumns, updates: true, follow: firstWrong },
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
