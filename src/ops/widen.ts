/** For whatever must read a bf16, f16 or fp8 tensor as f32. */
import wgsl from "../../shaders/widen.wgsl" with { type: "text" };
import type { Scope, Tensor } from "../backend.ts";
import { defineOp, spread } from "../op.ts";
import { ELEMENTWISE } from "../sampling.ts";

/** Narrow floats to f32, exactly. */
export const widen = defineOp({
  name: "widen",
  inputs: { x: "bf16|f16|f8_e4m3[N]" },
  outputs: { y: "f32[N]" },
  wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  sampling: ELEMENTWISE,
  reference({ x, y }) {
    y!.set(x!);
  },
});

/** Floats as f32: a tensor that is, or a new one in `scope`. */
export function widened(x: Tensor, scope: Scope): Tensor {
  if (x.dtype === "f32") return x;
  const y = scope.alloc("f32", x.shape);
  scope.backend.run(widen, { x, y });
  return y;
}
