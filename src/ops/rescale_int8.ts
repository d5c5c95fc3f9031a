/** For LLM.int8(): integer products back to real units. */
import wgsl from "../../shaders/rescale_int8.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { checkColumns } from "./matmul_nt.ts";

/**
 * The product of two int8 tensors in real units: z[t, column + r] = y·a[t]·b[r]/127², a and b the
 * absmax of the rows.
 */
export const rescaleInt8 = defineOp({
  name: "rescale_int8",
  inputs: { y: "i32[T, R]", a: "f32[T]", b: "f32[R]" },
  outputs: { z: "f32[T, Y]" },
  scalars: { column: "u32" },
  wgsl,
  workgroups: ({ T = 0, R = 0 }) => spread(T * R),
  check: checkColumns,
  reference({ y, a, b, z }, { T = 0, R = 0, Y = 0 }, { column = 0 }) {
    for (let t = 0; t < T; t++) {
      for (let r = 0; r < R; r++) {
        z![t * Y + column + r] = y![t * R + r]! * a![t]! * b![r]! / (127 * 127);
      }
    }
  },
});
