/** For whatever must read a bf16, f16 or fp8 tensor as f32. */
import wgsl from "../../shaders/widen.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";

/** Narrow floats to f32, exactly. */
export const widen = defineOp({
  name: "widen",
  inputs: { x: "bf16|f16|f8_e4m3[N]" },
  outputs: { y: "f32[N]" },
  wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  reference({ x, y }) {
    y!.set(x!);
  },
});
