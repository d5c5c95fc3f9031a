/** For double quantization: the absmax that a reader of the checkpoint will compute. */
import wgsl from "../../shaders/dequantize_dynamic8.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { checkDynamic8 } from "./quantize_dynamic8.ts";

/** The values of 8-bit dynamic codes: table[code]·absmax of the block, plus the offset. */
export const dequantizeDynamic8 = defineOp({
  name: "dequantize_dynamic8",
  inputs: { codes: "u8[N]", absmax: "f32[B]", table: "f32[K]" },
  outputs: { x: "f32[N]" },
  scalars: { block: "u32", offset: "f32" },
  wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  check: checkDynamic8,
  reference({ codes, absmax, table, x }, { N = 0 }, { block = 1, offset = 0 }) {
    for (let i = 0; i < N; i++) {
      x![i] = Math.fround(table![codes![i]!]! * absmax![Math.floor(i / block)]!) + offset;
    }
  },
});
