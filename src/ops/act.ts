/** The middle of an MLP without a gate. */
import wgsl from "../../shaders/act.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { ELEMENTWISE } from "../sampling.ts";
import { activate, ACTIVATION_WGSL, activationBound, checkActivation } from "./activation.ts";

/** x = act(x), in place; `kind` by number, see activation.ts. */
export const act = defineOp({
  name: "act",
  inputs: {},
  outputs: { x: "f32[N]" },
  scalars: { kind: "u32" },
  wgsl: ACTIVATION_WGSL + wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  check: (_dims, scalars) => checkActivation(scalars),
  sampling: {
    ...ELEMENTWISE,
    updates: true,
    bounds: {
      x: ({ before: { x }, want, scalars: { kind = 0 } }) =>
        Float64Array.from(want.x!, (value, i) => activationBound(x![i]!, value, kind)),
    },
  },
  reference({ x }, { N = 0 }, { kind = 0 }) {
    for (let i = 0; i < N; i++) x![i] = activate(x![i]!, kind);
  },
});
