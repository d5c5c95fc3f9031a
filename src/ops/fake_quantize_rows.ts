/**
 * For schemes whose runtime rounds activations too: what W8A8 and fp8 do to the input of a linear.
 */
import level from "../../shaders/runtime_level.wgsl" with { type: "text" };
import wgsl from "../../shaders/fake_quantize_rows.wgsl" with { type: "text" };
import { E4M3_MAX, e4m3ToF32, f32ToE4m3, roundHalfEven } from "../number.ts";
import { defineOp, fold } from "../op.ts";
import { checkGrid, clamp, codeRange } from "./grid.ts";

/**
 * Rounds activations a row at a time and gives the rounded values, as a runtime with dynamic
 * per-token quantization would: kind 0 the full symmetric integer grid of `bits`, kind 1 E4M3. A
 * row of zeros stays zero. Rows must be finite.
 */
export const fakeQuantizeRows = defineOp({
  name: "fake_quantize_rows",
  inputs: { x: "f32[T, C]" },
  outputs: { y: "f32[T, C]" },
  scalars: { kind: "u32", bits: "u32" },
  wgsl: level + wgsl,
  workgroups: ({ T = 0 }) => fold(T),
  check: (_dims, { kind = 0, bits = 0 }) =>
    kind === 1 ||
    (kind === 0 ? checkGrid({ bits }) : `kind must be 0 (int) or 1 (fp8), got ${kind}`),
  reference({ x, y }, { T = 0, C = 0 }, { kind = 0, bits = 0 }) {
    const range = codeRange({ bits, grid: 0 });
    for (let t = 0; t < T; t++) {
      let most = 0;
      for (let c = 0; c < C; c++) most = Math.max(most, Math.abs(x![t * C + c]!));
      const scale = Math.fround(most / (kind === 0 ? (2 ** bits - 1) / 2 : E4M3_MAX));
      for (let i = t * C; i < (t + 1) * C; i++) {
        const quotient = scale === 0 ? 0 : Math.fround(x![i]! / scale);
        const level = kind === 0
          ? clamp(roundHalfEven(quotient), range.low, range.high)
          : e4m3ToF32(f32ToE4m3(quotient));
        y![i] = level * scale;
      }
    }
  },
});
