/**
 * Activation functions, which the ops that have one take by number; the same in
 * shaders/activation.wgsl.
 */
import wgsl from "../../shaders/activation.wgsl" with { type: "text" };
import type { Activation } from "../family.ts";
import { U } from "../sampling.ts";

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

/**
 * By how much an activation may be off. exp is off by 3 + 2|x| units in WGSL, the rest is a sum, a
 * division of 2.5 units and products. Below −87.3, where e^−x is more than 2^126, WGSL says nothing
 * of a division by it; SiLU is less than 1.1e-36 there and may be 0. GELU's erf is off by 2e-7 at
 * most, and by rounding; that by tanh takes an exponential of 1.6·(x + 0.045·x³), whose own
 * rounding counts as much as it is long. `other` is what the activation is multiplied by.
 */
export function activationBound(x: number, want: number, kind: number, other = 1): number {
  // Its cube is not far from the end of f32.
  if (!(Math.abs(x) < 1e10)) return Infinity;
  const far = 1.1e-36 * (1 + Math.abs(other));
  const steps = (units: number) => 2 * units * U * Math.abs(want) + far;
  switch (ACTIVATIONS[kind]) {
    case "silu":
      return steps(8 + 2 * Math.abs(x));
    case "gelu":
      return Math.abs(x * other) * (2.5e-7 + 8 * U) + steps(8);
    case "gelu_tanh": {
      const u = Math.min(100, 1.6 * (Math.abs(x) + 0.045 * Math.abs(x) ** 3));
      return steps(8 + 8 * u);
    }
    default:
      return steps(1);
  }
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
