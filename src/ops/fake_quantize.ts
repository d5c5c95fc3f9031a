/**
 * For schemes whose runtime rounds activations by a scale that is fixed before it runs (static W8A8
 * and fp8).
 */
import level from "../../shaders/runtime_level.wgsl" with { type: "text" };
import wgsl from "../../shaders/fake_quantize.wgsl" with { type: "text" };
import { e4m3ToF32, f32ToE4m3, roundHalfEven } from "../number.ts";
import { defineOp, spread } from "../op.ts";
import { checkGrid, clamp, codeRange } from "./grid.ts";

/**
 * Rounds activations to the levels of one scale and gives the rounded values: kind 0 the full
 * symmetric integer grid of `bits`, kind 1 E4M3. What lies beyond the levels becomes the outermost.
 * Values must be finite, the scale positive.
 */
export const fakeQuantize = defineOp({
  name: "fake_quantize",
  inputs: { x: "f32[N]", scale: "f32[S]" },
  outputs: { y: "f32[N]" },
  scalars: { kind: "u32", bits: "u32" },
  wgsl: level + wgsl,
  workgroups: ({ N = 0 }) => spread(N),
  check({ S = 0 }, { kind = 0, bits = 0 }) {
    if (S !== 1) return `all values share one scale, got S = ${S}`;
    if (kind === 1) return true;
    return kind === 0 ? checkGrid({ bits }) : `kind must be 0 (int) or 1 (fp8), got ${kind}`;
  },
  reference({ x, scale, y }, { N = 0 }, { kind = 0, bits = 0 }) {
    const range = codeRange({ bits, grid: 0 });
    for (let i = 0; i < N; i++) {
      const quotient = Math.fround(x![i]! / scale![0]!);
      const level = kind === 0
        ? clamp(roundHalfEven(quotient), range.low, range.high)
        : e4m3ToF32(f32ToE4m3(quotient));
      y![i] = level * scale![0]!;
    }
  },
});
