/**
 * What roundings leave on the device to be told of their weights: it is read together, so that a
 * device is waited for once, not for each weight.
 */
import type { Backend, Tensor } from "../backend.ts";
import type { CalibrationMeasure } from "./output_error.ts";
import type { QuantizedWeight } from "./quantized_weight.ts";

/** What the rounding of one weight has left. */
export interface Untold {
  readonly weight: QuantizedWeight;
  /** f32[n] by slice: GPTQ's loss of each row; none of other methods. */
  readonly losses: readonly Tensor[];
  readonly measure: CalibrationMeasure | undefined;
}

/** See the head of this file. */
export class UntoldFacts {
  readonly #untold: Untold[] = [];

  add(untold: Untold): void {
    this.#untold.push(untold);
  }

  /** Read all that was left since the last time, and add it to the facts of its weights. */
  async tell(backend: Backend): Promise<void> {
    const untold = this.#untold.splice(0);
    if (untold.length === 0) return;
    const tensors = untold.map(({ losses, measure }) => [...losses, ...measure?.tensors ?? []]);
    const read = await backend.read(...tensors.flat());
    for (const [i, { weight, losses, measure }] of untold.entries()) {
      const sums = read.splice(0, tensors[i]!.length);
      const measured = measure?.finish(sums.splice(losses.length));
      const loss = sums.reduce(
        (all, bytes) => new Float32Array(bytes.buffer).reduce((sum, value) => sum + value, all),
        0,
      );
      weight.facts = {
        ...weight.facts,
        ...(losses.length > 0 ? { loss: loss / weight.facts.tokens } : {}),
        ...measured,
      };
    }
  }
}
