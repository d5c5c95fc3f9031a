/**
 * For metrics, for the quantized model's forward pass, and for checkpoints read back, in NF4 and
 * FP4.
 */
import tables from "../../shaders/codebook.wgsl" with { type: "text" };
import wgsl from "../../shaders/dequantize_4bit.wgsl" with { type: "text" };
import { CODEBOOKS } from "./codebook.ts";
import { defineOp, spread } from "../op.ts";
import { check4bit, someBlocks } from "./quantize_4bit.ts";

/** The values of NF4 or FP4 codes: table[code]·absmax of the block. */
export const dequantize4bit = defineOp({
  name: "dequantize_4bit",
  inputs: { codes: "u8[P]", absmax: "f32[B]" },
  outputs: { w: "f32[N]" },
  scalars: { block: "u32", kind: "u32" },
  wgsl: tables + wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  check: check4bit,
  sampling: { part: someBlocks },
  reference({ codes, absmax, w }, { N = 0 }, { block = 1, kind = 0 }) {
    const { table } = CODEBOOKS[kind]!;
    for (let i = 0; i < N; i++) {
      const code = i % 2 ? codes![i >> 1]! & 15 : codes![i >> 1]! >> 4;
      w![i] = Math.fround(table[code]! * absmax![Math.floor(i / block)]!);
    }
  },
});
