/**
 * For double quantization: the absmax of NF4 and FP4 blocks as 8-bit codes (QLoRA, arXiv
 * 2305.14314, §3).
 */
import wgsl from "../../shaders/quantize_dynamic8.wgsl" with { type: "text" };
import { midpoints } from "./codebook.ts";
import { defineOp, type Dims, type Scalars, spread } from "../op.ts";
import { rankBlock } from "./blocks.ts";
import { MAX_EXTENT } from "./grid.ts";

/** Why the table or the blocks have another size than they must, or `true`. */
export function checkDynamic8(
  { N = 0, B = 0, K = 0 }: Dims,
  { block = 0 }: Scalars,
): true | string {
  if (K !== 256) return `the table must have 256 entries, got K = ${K}`;
  if (!(block >= 1 && block <= MAX_EXTENT)) {
    return `a block must have 1 to ${MAX_EXTENT} elements, got ${block}`;
  }
  const blocks = Math.ceil(N / block);
  return B === blocks || `N = ${N} in blocks of ${block} needs B = ${blocks}, got ${B}`;
}

/**
 * Codes of x − offset in a sorted table of 256 values, with an absmax per block (`rankBlock` tells
 * the arithmetic): the nearest entry to (x − offset)/absmax, and the lower of two as near. A block
 * that is not finite has absmax +∞ and codes of value 0.
 */
export const quantizeDynamic8 = defineOp({
  name: "quantize_dynamic8",
  inputs: { x: "f32[N]", table: "f32[K]" },
  outputs: { codes: "u8[N]", absmax: "f32[B]" },
  scalars: { block: "u32", offset: "f32" },
  wgsl,
  workgroups: ({ N = 0 }) => spread(Math.ceil(N / 4)),
  check: checkDynamic8,
  reference({ x, table, codes, absmax }, { N = 0, B = 0 }, { block = 0, offset = 0 }) {
    const bounds = midpoints(table!);
    for (let b = 0; b < B; b++) {
      const values = Array.from(
        x!.subarray(b * block, Math.min(N, (b + 1) * block)),
        (value) => Math.fround(value - offset),
      );
      const ranked = rankBlock(values, { block, bounds });
      absmax![b] = ranked.absmax;
      codes!.set(ranked.ranks, b * block);
    }
  },
});
