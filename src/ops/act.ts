/** The middle of an MLP without a gate. */
import wgsl from "../../shaders/act.wgsl" with { type: "text" };
import { defineOp, spread } from "../op.ts";
import { activate, ACTIVATION_WGSL, checkActivation } from "./activation.ts";

/** x = act(x), in place; `kind` by number, see activation.ts. */
export const act = defineOp({
  name: "act",
  inputs: {},
  outputs: { x: "f32[N]" },
  scalars: { kind: "u32" },
  wgsl: ACTIVATION_WGSL + wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  check: (_dims, scalars) => checkActivation(scalars),
  reference({ x }, { N = 0 }, { kind = 0 }) {
    for (let i = 0; i < N; i++) x![i] = activate(x![i]!, kind);
  },
});
