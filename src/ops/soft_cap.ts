/**
 * What keeps scores and logits within bounds (Gemma 2, arXiv 2408.00118), defined here and in
 * shaders/soft_cap.wgsl.
 */
import wgsl from "../../shaders/soft_cap.wgsl" with { type: "text" };

/** WGSL of `soft_cap`, to be put before a shader that calls it. */
export const SOFT_CAP_WGSL: string = wgsl;

/** cap·tanh(x / cap); x itself where cap is 0. */
export function softCap(x: number, cap: number): number {
  return cap === 0 ? x : cap * Math.tanh(x / cap);
}
