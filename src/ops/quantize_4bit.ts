/** For the schemes NF4 and FP4 (QLoRA, arXiv 2305.14314). */
import tables from "../../shaders/codebook.wgsl" with { type: "text" };
import wgsl from "../../shaders/quantize_4bit.wgsl" with { type: "text" };
import { CODEBOOKS, nearBound } from "./codebook.ts";
import { defineOp, type Dims, type Scalars, spread } from "../op.ts";
import { rankBlock } from "./blocks.ts";
import { MAX_EXTENT } from "./grid.ts";
import { type Draw, type Part, someRows, type Values } from "../sampling.ts";

/** Why N elements do not fit P bytes of codes and B blocks, or `true`. */
export function check4bit(
  { N = 0, P = 0, B = 0 }: Dims,
  { block = 0, kind = 0 }: Scalars,
): true | string {
  if (!(block >= 1 && block <= MAX_EXTENT)) {
    return `a block must have 1 to ${MAX_EXTENT} elements, got ${block}`;
  }
  if (kind !== 0 && kind !== 1) return `kind must be 0 (nf4) or 1 (fp4), got ${kind}`;
  const bytes = Math.ceil(N / 2);
  const blocks = Math.ceil(N / block);
  return (P === bytes && B === blocks) ||
    `N = ${N} in blocks of ${block} needs P = ${bytes} and B = ${blocks}, got P = ${P} and B = ${B}`;
}

/** Some blocks of a flattened weight, to be checked; those of an odd size two by two. */
export function someBlocks(
  { N = 0, B = 0 }: Dims,
  { block = 1 }: Scalars,
  draw: Draw,
): Part {
  const [from, to] = someRows(B, draw, { width: block, step: block % 2 + 1 });
  const [first, last] = [from * block, Math.min(N, to * block)];
  return { ranges: { N: [first, last], P: [first / 2, Math.ceil(last / 2)], B: [from, to] } };
}

/** Codes of a 4-bit tensor, two to a byte. */
export function nibbles(codes: Values): Uint8Array {
  return Uint8Array.from(
    { length: codes.length * 2 },
    (_, i) => i % 2 ? codes[i >> 1]! & 15 : codes[i >> 1]! >> 4,
  );
}

/**
 * NF4 (kind 0) or FP4 (kind 1) codes and an absmax per block of the flattened weight, as
 * bitsandbytes has them (`rankBlock` tells the arithmetic). The first of two codes is in the high
 * nibble; past an odd end is the code of 0. A block that is not finite has absmax +∞ and codes of
 * 0. With `given` 1 the absmax that is there is taken instead, where a method has chosen values
 * already.
 */
export const quantize4bit = defineOp({
  name: "quantize_4bit",
  inputs: { w: "f32|bf16|f16[N]" },
  outputs: { codes: "u8[P]", absmax: "f32[B]" },
  scalars: { block: "u32", kind: "u32", given: "u32" },
  wgsl: tables + wgsl,
  workgroups: ({ N = 0 }) => spread(Math.ceil(N / 8)),
  check: check4bit,
  sampling: {
    part: someBlocks,
    ties: {
      codes: {
        near: ({ before: { w }, want: { absmax }, scalars: { block = 1, kind = 0 } }) =>
          Array.from(
            w!,
            (x, i) => nearBound(x / absmax![Math.floor(i / block)]!, CODEBOOKS[kind]!.bounds),
          ),
        unpack: nibbles,
      },
    },
    updates: true,
  },
  reference({ w, codes, absmax }, { N = 0, P = 0, B = 0 }, { block = 0, kind = 0, given = 0 }) {
    const { order, bounds, zero } = CODEBOOKS[kind]!;
    const nibbles = new Uint8Array(P * 2).fill(zero);
    for (let b = 0; b < B; b++) {
      const values = Array.from(w!.subarray(b * block, Math.min(N, (b + 1) * block)));
      const ranked = rankBlock(values, {
        block,
        bounds,
        ...(given ? { absmax: absmax![b]! } : {}),
      });
      absmax![b] = ranked.absmax;
      ranked.ranks.forEach((rank, i) => nibbles[b * block + i] = order[rank]!);
    }
    for (let i = 0; i < P; i++) codes![i] = (nibbles[2 * i]! << 4) | nibbles[2 * i + 1]!;
  },
});
