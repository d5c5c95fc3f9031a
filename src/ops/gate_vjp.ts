/** Backward through the middle of a gated MLP. */
import wgsl from "../../shaders/gate_vjp.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { activate, ACTIVATION_WGSL, activationSlope, checkActivation } from "./activation.ts";

/**
 * The gradient by act(gate)·up, at `up_g`, becomes that by up, act(gate)·g; that by the gate,
 * act′(gate)·up·g, goes to `gate_g`; `kind` by number, see activation.ts.
 */
export const gateVjp = defineOp({
  name: "gate_vjp",
  inputs: { gate: "f32[N]", up: "f32[N]" },
  outputs: { up_g: "f32[N]", gate_g: "f32[N]" },
  scalars: { kind: "u32" },
  wgsl: ACTIVATION_WGSL + wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  check: (_dims, scalars) => checkActivation(scalars),
  reference({ gate, up, up_g, gate_g }, { N = 0 }, { kind = 0 }) {
    for (let i = 0; i < N; i++) {
      const g = up_g![i]!;
      gate_g![i] = activationSlope(gate![i]!, kind) * up![i]! * g;
      up_g![i] = activate(gate![i]!, kind) * g;
    }
  },
});
