/** The model architectures Sluice can run, and how one is found. To add one: a file beside this, and a row here. */
import { CheckpointError } from "../errors.ts";
import type { Family, Model } from "../family.ts";
import type { Shape } from "../tensor.ts";
import { llama } from "./llama.ts";

/** Every family. */
export const FAMILIES: readonly Family[] = [llama];

/** The family that takes this config's `model_type`, or undefined: such a model can be quantized, but not run. */
export function familyOf(config: Readonly<Record<string, unknown>>): Family | undefined {
  return FAMILIES.find(({ modelTypes }) => modelTypes.some((type) => type === config.model_type));
}

/**
 * Check that a checkpoint's tensors have the shapes its config implies, so that no forward pass fails half-way.
 *
 * @param shapeOf The shape of a tensor (of a quantized weight: the shape it had before), or undefined when there is none.
 * @throws {CheckpointError} a tensor has another shape.
 */
export function checkShapes(
  model: Model,
  shapeOf: (tensor: string) => Shape | undefined,
): void {
  for (const [tensor, expected] of model.shapes) {
    const found = shapeOf(tensor);
    if (found?.join() !== expected.join()) {
      throw new CheckpointError(
        `Cannot evaluate this model: "${tensor}" has shape ${
          found ? `[${found.join(", ")}]` : "unknown"
        }, config.json implies [${expected.join(", ")}].`,
        { tensor },
      );
    }
  }
}
