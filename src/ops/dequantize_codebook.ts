/** The inverse of `quantize_codebook`. */
import wgsl from "../../shaders/dequantize_codebook.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { checkTables } from "./quantize_codebook.ts";

/** The levels of codes, bit for bit. A code of K or more has the last level. */
export const dequantizeCodebook = defineOp({
  name: "dequantize_codebook",
  inputs: { codes: "u8[R, C]", table: "f32[A, K]" },
  outputs: { w: "f32[R, C]" },
  scalars: { table_rows: "u32" },
  wgsl,
  workgroups: ({ R = 0, C = 0 }) => spread(R * C),
  check: checkTables,
  reference({ codes, table, w }, { R = 0, C = 0, K = 0 }, { table_rows = 1 }) {
    for (let r = 0; r < R; r++) {
      const first = Math.floor(r / table_rows) * K;
      for (let i = r * C; i < (r + 1) * C; i++) {
        w![i] = table![first + Math.min(codes![i]!, K - 1)]!;
      }
    }
  },
});
