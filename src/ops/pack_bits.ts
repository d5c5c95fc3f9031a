/** For formats that store codes densely, and for `matmul_packed`. */
import wgsl from "../../shaders/pack_bits.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { checkPacked } from "./unpack_bits.ts";
import { someRows } from "../sampling.ts";

/**
 * Codes as a dense bitstream, lowest bit first along each row of whole 32-bit words; a field holds
 * code + 2^(bits−1) and may cross words; bits past the row's end are 0 (the layout of
 * compressed-tensors' `pack-quantized`).
 */
export const packBits = defineOp({
  name: "pack_bits",
  inputs: { codes: "i8[R, C]" },
  outputs: { packed: "u32[R, P]" },
  scalars: { bits: "u32" },
  wgsl,
  workgroups: ({ R = 0, P = 0 }) => spread(R * P),
  check: checkPacked,
  sampling: {
    part: ({ R = 0, C = 0 }, _scalars, draw) => ({
      ranges: { R: someRows(R, draw, { width: C }) },
    }),
  },
  reference({ codes, packed }, { R = 0, C = 0, P = 0 }, { bits = 0 }) {
    packed!.fill(0);
    for (let r = 0; r < R; r++) {
      for (let c = 0; c < C; c++) {
        const field = codes![r * C + c]! + 2 ** (bits - 1);
        for (let bit = 0; bit < bits; bit++) {
          const at = c * bits + bit;
          if ((field >> bit) & 1) packed![r * P + (at >> 5)]! |= 1 << (at & 31);
        }
      }
    }
  },
});
