/** What the cases of the quantizing ops share: weights that find what rounding gets wrong. */
import { floats, gaussian, type Given } from "./given.ts";

/**
 * Rows of weights that find what rounding gets wrong: zeros, subnormals, one spike, all equal,
 * exact ties.
 */
export const ODD_ROWS = [
  new Array(40).fill(0),
  Array.from({ length: 40 }, (_, i) => (i - 20) * 1e-41),
  Array.from({ length: 40 }, (_, i) => i === 13 ? -1000 : 1e-3),
  new Array(40).fill(-0.3),
  Array.from({ length: 40 }, (_, i) => (i - 20) * 0.5),
  Array.from({ length: 40 }, (_, i) => i % 2 ? -0 : 0),
  Array.from({ length: 40 }, (_, i) => (i + 1) * 1e30),
];

export const oddWeights = floats("f32", [7, 40], ODD_ROWS.flat());

/** Rows 1 and 3 of 5 are not finite. */
export function brokenWeights(dtype: "f32" | "bf16" | "f16"): Given {
  const values = gaussian(5 * 40, 91);
  values[40 + 7] = NaN;
  values[3 * 40 + 39] = -Infinity;
  return floats(dtype, [5, 40], values);
}
