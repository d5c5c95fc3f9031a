/** For the metrics: sums from which SQNR, PSNR, cosine and the like follow. */
import wgsl from "../../shaders/error_sums.wgsl" with { type: "text" };
import { defineOp, fold } from "../op.ts";

/**
 * Elements that one row of sums covers: short enough for f32, and the host adds the rows up in
 * float64.
 */
export const ERROR_CHUNK = 4096;

/**
 * Per chunk of 4096 elements: Σa², Σb², Σab, Σ(a−b)², max|a−b|, max|a|. SQNR and its kin follow
 * from them.
 */
export const errorSums = defineOp({
  name: "error_sums",
  inputs: { a: "f32|bf16|f16[N]", b: "f32[N]" },
  outputs: { sums: "f32[P, S]" },
  wgsl,
  workgroups: ({ P = 0 }) => fold(P),
  check({ N = 0, P = 0, S = 0 }) {
    const chunks = Math.ceil(N / ERROR_CHUNK);
    return (P === chunks && S === 6) ||
      `N = ${N} needs sums of ${chunks}×6, got P×S = ${P}×${S}`;
  },
  reference({ a, b, sums }, { N = 0, P = 0 }) {
    for (let p = 0; p < P; p++) {
      const s = [0, 0, 0, 0, 0, 0];
      for (let i = p * ERROR_CHUNK; i < Math.min(N, (p + 1) * ERROR_CHUNK); i++) {
        const difference = a![i]! - b![i]!;
        s[0]! += a![i]! ** 2;
        s[1]! += b![i]! ** 2;
        s[2]! += a![i]! * b![i]!;
        s[3]! += difference ** 2;
        s[4] = Math.max(s[4]!, Math.abs(difference));
        s[5] = Math.max(s[5]!, Math.abs(a![i]!));
      }
      sums!.set(s, p * 6);
    }
  },
});
