/**
 * One step of GPTQ's factor (methods/gptq/factor.ts tells the whole): a diagonal block factored,
 * and its inverse.
 */
import wgsl from "../../shaders/factor_block.wgsl" with { type: "text" };
import { defineOp } from "../op.ts";

/** Rows and columns of a diagonal block. */
export const FACTOR_BLOCK = 64;

/**
 * The reverse Cholesky factor of the symmetric block at `first`, of which m's upper half is read: A
 * = R·Rᵀ with R upper triangular, and t = R⁻¹, upper triangular, in its first min(K, C − first)
 * rows and columns. Those rows of s become the identity's. m holds rows `panel` … of the matrix. A
 * pivot (a square of R's diagonal) below `least` or not finite counts as 1; status[0] is the least
 * pivot so far, −1 after such a one.
 */
export const factorBlock = defineOp({
  name: "factor_block",
  inputs: { m: "f32[P, C]" },
  outputs: { s: "f32[C, K]", t: "f32[K, K]", status: "f32[S]" },
  scalars: { first: "u32", panel: "u32", least: "f32" },
  wgsl,
  workgroups: () => [1, 1, 1],
  check({ P = 0, C = 0, K = 0, S = 0 }, { first = 0, panel = 0 }) {
    if (K !== FACTOR_BLOCK || S !== 1) return `K must be 64 and S 1, got ${K} and ${S}`;
    const last = Math.min(first + K, C);
    return (panel <= first && last <= panel + P && first < C) ||
      `rows ${first} to ${last} are not inside those from ${panel} to ${panel + P}`;
  },
  reference(
    { m, s, t, status },
    { C = 0, K = 0 },
    { first = 0, panel = 0, least = 0 },
  ) {
    const count = Math.min(K, C - first);
    const a = (i: number, j: number) => m![(first - panel + i) * C + first + j]!;
    const r = new Float64Array(count * count);
    for (let j = count - 1; j >= 0; j--) {
      for (let i = j; i >= 0; i--) {
        let sum = a(i, j);
        for (let k = j + 1; k < count; k++) sum -= r[i * count + k]! * r[j * count + k]!;
        if (i < j) {
          r[i * count + j] = sum / r[j * count + j]!;
          continue;
        }
        const sound = sum >= least && Number.isFinite(sum);
        status![0] = Math.min(status![0]!, sound ? sum : -1);
        r[j * count + j] = Math.sqrt(sound ? sum : 1);
      }
    }
    for (let j = 0; j < count; j++) {
      for (let i = count - 1; i >= 0; i--) {
        let sum = i === j ? 1 : 0;
        for (let k = i + 1; k <= j; k++) sum -= r[i * count + k]! * t![k * K + j]!;
        t![i * K + j] = i > j ? 0 : sum / r[i * count + i]!;
        s![(first + i) * K + j] = i === j ? 1 : 0;
      }
    }
  },
});
