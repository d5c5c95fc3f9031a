/** Windows of several calibrations begun together: the table is read once for all in step. */
import type { ModelWeights } from "../forward/weights.ts";
import type { Calibration } from "./pass.ts";

/** Look up every window's tokens, for several outputs of one run. */
export async function embedTogether(
  calibrations: readonly Calibration[],
  weights: ModelWeights,
): Promise<void> {
  let left = calibrations;
  for (;;) {
    const [first, ...others] = left;
    if (!first) return;
    const inStep = others.filter((other) => first.isInStep(other));
    await first.embed(weights, inStep);
    left = others.filter((other) => !inStep.includes(other));
  }
}
