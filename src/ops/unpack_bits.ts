/** For checkpoints read back: the inverse of `pack_bits`. */
import wgsl from "../../shaders/unpack_bits.wgsl" with { type: "text" };
import { defineOp, type Dims, type Scalars, spread } from "../op.ts";
import { checkGrid } from "./grid.ts";
import { someRows } from "../sampling.ts";

/** Why P words do not hold a row of C codes, or `true`. */
export function checkPacked({ C = 0, P = 0 }: Dims, { bits = 0 }: Scalars): true | string {
  const verdict = checkGrid({ bits });
  if (verdict !== true) return verdict;
  const words = Math.ceil(C * bits / 32);
  return P === words || `${C} codes of ${bits} bits fill P = ${words} words a row, got ${P}`;
}

/** One code of a row packed by `pack_bits`. */
export function fieldOf(
  row: { readonly [index: number]: number },
  { start, column, bits }: {
    readonly start: number;
    readonly column: number;
    readonly bits: number;
  },
): number {
  let field = 0;
  for (let bit = 0; bit < bits; bit++) {
    const at = column * bits + bit;
    field |= ((row[start + (at >> 5)]! >>> (at & 31)) & 1) << bit;
  }
  return field - 2 ** (bits - 1);
}

/** The codes of a bitstream that `pack_bits` wrote. */
export const unpackBits = defineOp({
  name: "unpack_bits",
  inputs: { packed: "u32[R, P]" },
  outputs: { codes: "i8[R, C]" },
  scalars: { bits: "u32" },
  wgsl,
  workgroups: ({ R = 0, C = 0 }) => spread(Math.ceil(R * C / 4)),
  check: checkPacked,
  sampling: {
    part: ({ R = 0, C = 0 }, _scalars, draw) => ({
      ranges: { R: someRows(R, draw, { width: C }) },
    }),
  },
  reference({ packed, codes }, { R = 0, C = 0, P = 0 }, { bits = 0 }) {
    for (let r = 0; r < R; r++) {
      for (let c = 0; c < C; c++) {
        codes![r * C + c] = fieldOf(packed!, { start: r * P, column: c, bits });
      }
    }
  },
});
