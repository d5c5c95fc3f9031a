/** The middle of a gated MLP. */
import wgsl from "../../shaders/gate.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { ELEMENTWISE } from "../sampling.ts";
import { activate, ACTIVATION_WGSL, activationBound, checkActivation } from "./activation.ts";

/** gate = act(gate)·up, in place (arXiv 2002.05202); `kind` by number, see activation.ts. */
export const gate = defineOp({
  name: "gate",
  inputs: { up: "f32[N]" },
  outputs: { gate: "f32[N]" },
  scalars: { kind: "u32" },
  wgsl: ACTIVATION_WGSL + wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  check: (_dims, scalars) => checkActivation(scalars),
  sampling: {
    ...ELEMENTWISE,
    updates: true,
    bounds: {
      gate: ({ before: { gate, up }, want, scalars: { kind = 0 } }) =>
        Float64Array.from(
          want.gate!,
          (value, i) => activationBound(gate![i]!, value, kind, up![i]!),
        ),
    },
  },
  reference({ up, gate }, { N = 0 }, { kind = 0 }) {
    for (let i = 0; i < N; i++) gate![i] = activate(gate![i]!, kind) * up![i]!;
  },
});
