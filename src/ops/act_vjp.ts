/** Backward through the middle of an MLP without a gate. */
import wgsl from "../../shaders/act_vjp.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { ACTIVATION_WGSL, activationSlope, checkActivation } from "./activation.ts";

/**
 * g = act′(x)·g, in place: the gradient by the output of `act` becomes that by its input x; `kind`
 * by number, see activation.ts.
 */
export const actVjp = defineOp({
  name: "act_vjp",
  inputs: { x: "f32[N]" },
  outputs: { g: "f32[N]" },
  scalars: { kind: "u32" },
  wgsl: ACTIVATION_WGSL + wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  check: (_dims, scalars) => checkActivation(scalars),
  reference({ x, g }, { N = 0 }, { kind = 0 }) {
    for (let i = 0; i < N; i++) g![i]! *= activationSlope(x![i]!, kind);
  },
});
