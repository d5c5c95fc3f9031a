/** The model of a checkpoint, where Sluice can run it. */
import { CheckpointError, UnsupportedError } from "../errors.ts";
import { configureModel } from "../families/mod.ts";
import type { Model } from "../family.ts";
import { recognize } from "../formats/mod.ts";
import type { TensorSource } from "../source.ts";
import { quantizedBy, refuseUnusable } from "./usable.ts";

/** A model that can be run, or the reason why it cannot. */
export type Runnable =
  | { readonly model: Model; readonly reason?: undefined; readonly broken?: undefined }
  | {
    readonly model?: undefined;
    readonly reason: string;
    /** Its config contradicts its tensors. */
    readonly broken?: true;
  };

/**
 * The model a checkpoint's config describes.
 *
 * @param has Whether the checkpoint has a tensor of this name, quantized or not.
 * @throws {UnsupportedError} Sluice does not run this architecture, or this variant of it.
 * @throws {CheckpointError} the config has a value that a model cannot have, or a tensor is
 * missing.
 */
export function modelOf(
  source: TensorSource,
  has: (tensor: string) => boolean = (name) => source.tensors.has(name),
): Model {
  return configureModel(source.config, has);
}

/**
 * The model of a checkpoint that is to be evaluated, and that has an output head.
 *
 * @param options.advice What to do where it has none, or cannot be run.
 * @throws {UnsupportedError} it has none, or Sluice does not run it.
 * @throws {CheckpointError} the config has a value that a model cannot have, or a tensor is
 * missing.
 */
export function evaluableModel(
  source: TensorSource,
  { has, advice }: {
    readonly has?: (tensor: string) => boolean;
    readonly advice: string;
  },
): Model {
  const refuse = (what: string, reason: string, cause?: unknown): never => {
    throw new UnsupportedError(`Cannot evaluate ${source.label}: ${reason}. ${advice}`, {
      what,
      reason,
      cause,
    });
  };
  let model: Model;
  try {
    model = modelOf(source, has);
  } catch (error) {
    if (!(error instanceof UnsupportedError)) throw error;
    return refuse(error.what, error.reason, error);
  }
  return model.head ? model : refuse("lm_head.weight", "it has no output head (lm_head.weight)");
}

/**
 * As {@linkcode modelOf}, but undefined where the model cannot be run, with the reason: what needs
 * no forward pass needs no model.
 *
 * @throws {CheckpointError} the config has a value that a model cannot have.
 */
export function modelIfAny(
  source: TensorSource,
  has?: (tensor: string) => boolean,
): Runnable {
  try {
    return { model: modelOf(source, has) };
  } catch (error) {
    if (error instanceof UnsupportedError) return { reason: error.reason };
    // Of a tensor that is not there; a config with a value that nothing can have is broken for all
    // uses.
    if (error instanceof CheckpointError && error.tensor !== undefined) {
      return { reason: reasonOf(error), broken: true };
    }
    throw error;
  }
}

/** What a sentence says after "Cannot …: ", without its end. */
export function reasonOf({ message }: CheckpointError): string {
  return message.replace(/^Cannot [^:]+: /, "").replace(/\.$/, "");
}

/**
 * The model of a checkpoint, whose weights may be quantized.
 *
 * @throws {UnsupportedError} Sluice does not run it, does not read the way it is quantized, or it
 * has no output head.
 * @throws {CheckpointError} the config has a value that a model cannot have, or a tensor is
 * missing.
 */
export async function modelToEvaluate(source: TensorSource): Promise<Model> {
  const found = await recognize(source);
  const by = quantizedBy(source);
  if (!found && by !== undefined) {
    throw new UnsupportedError(
      `Cannot evaluate ${source.label}: it is quantized (${by}), and Sluice does not read its files.`,
      { what: by, reason: "not a format Sluice reads" },
    );
  }
  return evaluableModel(source, {
    has: (name) => source.tensors.has(name) || found?.weights.has(name) === true,
    advice: "Measure it with a tool that runs it.",
  });
}

/**
 * The model in which outliers can be looked for.
 *
 * @throws {UnsupportedError} Sluice does not run it, or it is quantized already.
 */
export function modelWithOutliers(source: TensorSource): Model {
  refuseUnusable(source);
  try {
    return modelOf(source);
  } catch (error) {
    if (!(error instanceof UnsupportedError)) throw error;
    throw new UnsupportedError(
      `Cannot find the outliers of ${source.label}, because Sluice cannot run it: ${error.reason}. ` +
        "Give `threshold` in place of `outlier-quantile`.",
      { what: error.what, reason: error.reason, cause: error },
    );
  }
}
