/** A linear of the quantized model without its weight ever being unpacked in memory. */
import wgsl from "../../shaders/matmul_packed.wgsl" with { type: "text" };
import vectors from "../../shaders/matmul_packed_vectors.wgsl" with { type: "text" };
import tile from "../../shaders/matmul_tile.wgsl" with { type: "text" };
import blocks from "../../shaders/matmul_x_y.wgsl" with { type: "text" };
import { defineOp, type Op } from "../op.ts";
import type { Seen } from "../sampling.ts";
import { checkColumns, partOfProduct, productBound } from "./matmul_nt.ts";
import { onTiles } from "./tiles.ts";
import { checkPacked, fieldOf } from "./unpack_bits.ts";

/** As of any product, with one more rounding for (code − zero)·scale. */
function packedBound(view: Seen): Float64Array {
  const { before: { x, w, scale, zero }, dims, scalars: { bits = 0, column = 0 } } = view;
  const { R = 0, C = 0, P = 0, G = 1 } = dims;
  const weights = new Float64Array(R * C);
  for (let r = 0; r < R; r++) {
    for (let c = 0; c < C; c++) {
      const group = r * G + Math.floor(c / (C / G));
      const code = fieldOf(w!, { start: r * P, column: c, bits });
      weights[r * C + c] = (code - zero![group]!) * scale![group]!;
    }
  }
  return productBound(view, { x: x!, w: weights, column, extra: 3 });
}

const plain = {
  name: "matmul_packed",
  inputs: { x: "f32[T, C]", w: "u32[R, P]", scale: "f32[R, G]", zero: "i8[R, G]" },
  outputs: { y: "f32[T, Y]" },
  scalars: { bits: "u32", column: "u32" },
  wgsl: wgsl + tile,
  workgroups: ({ T = 0, R = 0 }) => [Math.ceil(R / 64), Math.ceil(T / 64), 1],
  work: ({ T = 0, R = 0, C = 0 }) => T * R * C,
  check(dims, scalars) {
    const { C = 0, G = 1 } = dims;
    if (C % G !== 0) return `C = ${C} columns do not divide into G = ${G} groups`;
    const verdict = checkPacked(dims, scalars);
    return verdict === true ? checkColumns(dims, scalars) : verdict;
  },
  sampling: { part: partOfProduct, bounds: { y: packedBound } },
  reference({ x, w, scale, zero, y }, dims, { bits = 0, column = 0 }) {
    const { T = 0, R = 0, C = 0, P = 0, G = 1, Y = 0 } = dims;
    const row = new Float32Array(C);
    for (let r = 0; r < R; r++) {
      for (let c = 0; c < C; c++) {
        const group = r * G + Math.floor(c / (C / G));
        const code = fieldOf(w!, { start: r * P, column: c, bits });
        row[c] = (code - zero![group]!) * scale![group]!;
      }
      for (let t = 0; t < T; t++) {
        let sum = 0;
        for (let c = 0; c < C; c++) sum += x![t * C + c]! * row[c]!;
        y![t * Y + column + r] = sum;
      }
    }
  },
} as const satisfies Op;

/**
 * `matmul_nt` with an integer weight as `pack_bits` packs it: w = (code − zero)·scale, G groups of
 * C/G columns a row.
 */
export const matmulPacked = defineOp({
  ...plain,
  variants: onTiles(plain, {
    wgsl: vectors + blocks,
    fits: ({ C = 0, G = 1 }) => C > 0 && C / G % 4 === 0,
    product: ({ T = 0, R = 0 }) => ({ rows: T, columns: R }),
  }),
});
