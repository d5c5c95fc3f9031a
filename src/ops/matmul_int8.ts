/** For LLM.int8(): the product of the columns that are not outliers. */
import wgsl from "../../shaders/matmul_int8.wgsl" with { type: "text" };
import { defineOp } from "../op.ts";
import { stretch } from "../sampling.ts";

/** y = x·wᵀ of int8 codes, exact: |y| stays below 2^31 for C up to 131072. */
export const matmulInt8 = defineOp({
  name: "matmul_int8",
  inputs: { x: "i8[T, C]", w: "i8[R, C]" },
  outputs: { y: "i32[T, R]" },
  wgsl,
  workgroups: ({ T = 0, R = 0 }) => [Math.ceil(R / 32), Math.ceil(T / 32), 1],
  sampling: {
    part: ({ T = 0, R = 0 }, _scalars, draw) => ({
      ranges: { T: stretch(T, draw, { most: 4 }), R: stretch(R, draw, { most: 16 }) },
    }),
  },
  reference({ x, w, y }, { T = 0, R = 0, C = 0 }) {
    for (let t = 0; t < T; t++) {
      for (let r = 0; r < R; r++) {
        let sum = 0;
        for (let c = 0; c < C; c++) sum += x![t * C + c]! * w![r * C + c]!;
        y![t * R + r] = sum;
      }
    }
  },
});
