/** For output tensors: casts, and scales or weights stored in a narrow dtype. */
import wgsl from "../../shaders/narrow.wgsl" with { type: "text" };
import { f32ToBf16, f32ToE4m3, f32ToF16 } from "../number.ts";
import { defineOp, spread } from "../op.ts";
import { ELEMENTWISE } from "../sampling.ts";

/**
 * f32 to the nearest narrow float, ties to even. Past the largest f16 comes infinity, past ±448 in
 * E4M3 ±448; NaN stays NaN.
 */
export const narrow = defineOp({
  name: "narrow",
  inputs: { x: "f32[N]" },
  outputs: { y: "bf16|f16|f8_e4m3[N]" },
  wgsl,
  workgroups: ({ N = 0 }) => spread(Math.ceil(N / 2)),
  sampling: ELEMENTWISE,
  reference({ x, y }, { N = 0 }, _scalars, { y: dtype }) {
    const encode = dtype === "bf16" ? f32ToBf16 : dtype === "f16" ? f32ToF16 : f32ToE4m3;
    for (let i = 0; i < N; i++) y![i] = encode(x![i]!);
  },
});
