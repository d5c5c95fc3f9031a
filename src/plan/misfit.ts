/** Where `config.json` and the tensors contradict each other, for loaders would trip over it too. */
import { CheckpointError } from "../errors.ts";
import { checkShapes, familyOf } from "../families/mod.ts";
import type { Model } from "../family.ts";
import type { TensorSource } from "../source.ts";
import { reasonOf, type Runnable } from "./model.ts";

/**
 * What of `config.json` does not fit the tensors, or is not known of its family, as a sentence says
 * it after "because"; undefined where all fits, and where Sluice does not know the family.
 */
export function misfitOf(
  { config, tensors }: Pick<TensorSource, "config" | "tensors">,
  { model, reason, broken }: Runnable,
  shapeOf = (name: string) => tensors.get(name)?.shape,
): string | undefined {
  if (!model) {
    if (broken) return reason;
    if (!familyOf(config)) return undefined;
    return `nobody has tried it with a variant that Sluice does not run: ${reason}`;
  }
  try {
    checkShapes(model, shapeOf);
  } catch (error) {
    if (error instanceof CheckpointError) return reasonOf(error);
    throw error;
  }
  const extra = beyond(model, tensors.keys());
  return extra === undefined
    ? undefined
    : `config.json describes ${model.blocks.length} layers, and "${extra}" is of another`;
}

/** A tensor of a layer that the model does not have. */
function beyond({ blocks }: Model, names: Iterable<string>): string | undefined {
  const layers = blocks[0]?.name.replace(/\d+$/, "");
  if (layers === undefined) return undefined;
  for (const name of names) {
    const number = name.startsWith(layers) ? /^\d+/.exec(name.slice(layers.length)) : null;
    if (number && Number(number[0]) >= blocks.length) return name;
  }
  return undefined;
}
