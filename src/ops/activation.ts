/**
 * Activation functions, which the ops that have one take by number; the same in
 * shaders/activation.wgsl.
 */
import wgsl from "../../shaders/activation.wgsl" with { type: "text" };
import type { Activation } from "../family.ts";

/** WGSL of `activation` and `activation_slope`, to be put before a shader that calls it. */
export const ACTIVATION_WGSL: string = wgsl;

/** By number. */
export const ACTIVATIONS: readonly Activation[] = ["silu", "gelu", "gelu_tanh", "relu"];

/** 0.5·(1 + tanh u) = 1 / (1 + e^(−2u)), with u = √(2/π)·(x + 0.044715·x³). */
const TANH = -2 * Math.sqrt(2 / Math.PI);

/** The definitions (SiLU and GELU: arXiv 1606.08415; `gelu_tanh` is its approximation by tanh). */
export function activate(x: number, kind: number): number {
  switch (ACTIVATIONS[kind]) {
    case "silu":
      return x / (1 + Math.exp(-x));
    case "gelu":
      return 0.5 * x * erfc(-x / Math.SQRT2);
    case "gelu_tanh":
      return x / (1 + Math.exp(TANH * (x + 0.044715 * x ** 3)));
    case "relu":
      return Math.max(x, 0);
  }
  throw new RangeError(`Cannot compute an activation: there is none of number ${kind}`);
}

/** Their derivatives; that of ReLU is 0 at 0, as frameworks have it. */
export function activationSlope(x: number, kind: number): number {
  switch (ACTIVATIONS[kind]) {
    case "silu": {
      const part = 1 / (1 + Math.exp(-x));
      return part + x * part / (1 + Math.exp(x));
    }
    case "gelu":
      return 0.5 * erfc(-x / Math.SQRT2) + x * Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI);
    case "gelu_tanh": {
      const u = TANH * (x + 0.044715 * x ** 3);
      const part = 1 / (1 + Math.exp(u));
      return part - x * TANH * (1 + 3 * 0.044715 * x * x) * part / (1 + Math.exp(-u));
    }
    case "relu":
      return x > 0 ? 1 : 0;
  }
  throw new RangeError(`Cannot differentiate an activation: there is none of number ${kind}`);
}

/** Why `kind` is no activation, or `true`. */
export function checkActivation({ kind = 0 }: Readonly<Record<string, number>>): true | string {
  return kind in ACTIVATIONS || `kind must be 0 (silu) to 3 (relu), got ${kind}`;
}

/** 1 − erf(x): a series near 0, a continued fraction far from it; within 1e-14. */
function erfc(x: number): number {
  if (x < 0) return 2 - erfc(-x);
  if (x < 2) {
    let [term, sum] = [x, x];
    for (let n = 1; Math.abs(term) > 1e-18 * Math.abs(sum) && n < 200; n++) {
      term *= -x * x / n;
      sum += term / (2 * n + 1);
    }
    return 1 - 2 / Math.sqrt(Math.PI) * sum;
  }
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (x + fraction);
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / (x + fraction);
}
