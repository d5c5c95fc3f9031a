/** A step of training scales. */
import wgsl from "../../shaders/step_scales.wgsl" with { type: "text" };
import { roundTo } from "../number.ts";
import { defineOp, spread } from "../op.ts";
import { checkGrid, SCALE_DTYPES } from "./grid.ts";

/**
 * wide −= rate·|wide|·d, against the direction d of the gradient by scales, so that none changes
 * its sign while rate·d is below 1; what is stored is wide rounded to its dtype.
 */
export const stepScales = defineOp({
  name: "step_scales",
  inputs: { d: "f32[N]" },
  outputs: { wide: "f32[N]", scale: "f32[N]" },
  scalars: { scale_dtype: "u32", rate: "f32" },
  wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  check(_dims, scalars) {
    const { rate = 0 } = scalars;
    return rate >= 0 ? checkGrid(scalars) : `the rate must be at least 0, got ${rate}`;
  },
  reference({ d, wide, scale }, { N = 0 }, { scale_dtype = 0, rate = 0 }) {
    const { dtype, smallest } = SCALE_DTYPES[scale_dtype]!;
    for (let i = 0; i < N; i++) {
      const before = wide![i]!;
      const after = Math.fround(before - Math.abs(before) * rate * d![i]!);
      const stored = Math.max(Math.abs(roundTo(dtype, after)), smallest);
      wide![i] = after;
      scale![i] = after < 0 ? -stored : stored;
    }
  },
});
