/**
 * For scales that move to a weight which is quantized already: its rows are divided by dividing the
 * scales of its codes.
 */
import wgsl from "../../shaders/scale_rows.wgsl" with { type: "text" };
import { roundTo } from "../number.ts";
import { defineOp, spread } from "../op.ts";
import { checkGrid, SCALE_DTYPES } from "./grid.ts";

/** y[r, c] ·= factor[r], rounded to `scale_dtype` (0 f32, 1 bf16, 2 f16). */
export const scaleRows = defineOp({
  name: "scale_rows",
  inputs: { factor: "f32[R]" },
  outputs: { y: "f32[R, C]" },
  scalars: { scale_dtype: "u32" },
  wgsl,
  workgroups: ({ R = 0, C = 0 }) => spread(R * C),
  check: (_dims, scalars) => checkGrid(scalars),
  reference({ factor, y }, { R = 0, C = 0 }, { scale_dtype = 0 }) {
    const { dtype } = SCALE_DTYPES[scale_dtype]!;
    for (let i = 0; i < R * C; i++) {
      const scaled = y![i]! * factor![Math.floor(i / C)]!;
      y![i] = dtype === "f32" ? scaled : roundTo(dtype, Math.fround(scaled));
    }
  },
});
