/**
 * The model architectures Sluice can run, and how one is found. To add one: a file beside this, and
 * a row here.
 */
import { CheckpointError, UnsupportedError } from "../errors.ts";
import { type Family, isTied, type Model } from "../family.ts";
import { isObject } from "../json.ts";
import type { Shape } from "../tensor.ts";
import { bloom } from "./bloom.ts";
import { falcon } from "./falcon.ts";
import { gemma } from "./gemma.ts";
import { glm4 } from "./glm4.ts";
import { gpt2 } from "./gpt2.ts";
import { gptNeox } from "./gpt_neox.ts";
import { granite } from "./granite.ts";
import { llama } from "./llama.ts";
import { ministral3 } from "./ministral3.ts";
import { mistral } from "./mistral.ts";
import { olmo2 } from "./olmo2.ts";
import { opt } from "./opt.ts";
import { phi3 } from "./phi3.ts";
import { qwen2 } from "./qwen2.ts";
import { smollm3 } from "./smollm3.ts";

/** Every family. */
export const FAMILIES: readonly Family[] = [
  llama,
  smollm3,
  mistral,
  ministral3,
  qwen2,
  phi3,
  olmo2,
  granite,
  glm4,
  gemma,
  gpt2,
  opt,
  gptNeox,
  bloom,
  falcon,
];

/**
 * Text models under another name: those of wrappers, and wrappers whose config has the text model's
 * keys beside their own.
 */
const ALIASES: Readonly<Record<string, string>> = {
  qwen2_vl: "qwen2",
  qwen2_vl_text: "qwen2",
  qwen2_5_vl: "qwen2",
  qwen2_5_vl_text: "qwen2",
  qwen3_vl_text: "qwen3",
};

/**
 * The config of the text model: of a wrapper (vision and text) its `text_config`. Its `model_type`
 * is that of a family, if there is one.
 *
 * @returns undefined when there is no `model_type`.
 */
export function textConfig(
  config: Readonly<Record<string, unknown>>,
): (Readonly<Record<string, unknown>> & { readonly model_type: string }) | undefined {
  const text = isObject(config.text_config) ? config.text_config : config;
  const type = text.model_type ?? config.model_type;
  if (typeof type !== "string") return undefined;
  const tied = text.tie_word_embeddings ?? config.tie_word_embeddings;
  return {
    ...text,
    model_type: ALIASES[type] ?? type,
    ...(tied === undefined ? {} : { tie_word_embeddings: tied }),
  };
}

/** The family that takes this config, or undefined: such a model can be quantized, but not run. */
export function familyOf(config: Readonly<Record<string, unknown>>): Family | undefined {
  const type = textConfig(config)?.model_type;
  return FAMILIES.find(({ modelTypes }) => modelTypes.some((known) => known === type));
}

/**
 * The model that a config describes.
 *
 * @param has Whether the checkpoint has a tensor of this name.
 * @throws {UnsupportedError} Sluice does not run this architecture, or this variant of it.
 * @throws {CheckpointError} a value or a tensor is missing, or out of range.
 */
export function configureModel(
  config: Readonly<Record<string, unknown>>,
  has: (tensor: string) => boolean,
): Model {
  const text = textConfig(config);
  const family = familyOf(config);
  if (text && family) {
    const model = family.configure(text, has);
    if (!isTied(model) || hasHead(config)) return model;
    const { head: _, ...headless } = model;
    return headless;
  }
  const found = text
    ? `its model_type is "${text.model_type}"`
    : "it has no config.json with a model_type";
  throw new UnsupportedError(
    `Cannot run this model: ${found}, and Sluice runs ${modelTypes().join(", ")}.`,
    { what: text?.model_type ?? "model_type", reason: found },
  );
}

/** Classes that have an output head over the vocabulary, which may be the embedding. */
const WITH_HEAD = /(ForCausalLM|LMHeadModel|ForMaskedLM|ForConditionalGeneration|MTModel)$/;

/**
 * Whether the class that a config names has an output head over the vocabulary; so it is taken to
 * have where no class is named. A classifier's config may say that its head is tied, and there is
 * none.
 */
export function hasHead({ architectures }: Readonly<Record<string, unknown>>): boolean {
  const [name] = Array.isArray(architectures) ? architectures : [];
  return typeof name !== "string" || WITH_HEAD.test(name);
}

/** Every `model_type` that Sluice runs. */
export function modelTypes(): string[] {
  return FAMILIES.flatMap(({ modelTypes }) => modelTypes);
}

/**
 * Check that a checkpoint's tensors have the shapes its config implies, so that no forward pass
 * fails half-way.
 *
 * @param shapeOf The shape of a tensor (of a quantized weight: the shape it had before), or
 * undefined when there is none.
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
        `Cannot run this model: "${tensor}" has shape ${
          found ? `[${found.join(", ")}]` : "unknown"
        }, config.json implies [${expected.join(", ")}].`,
        { tensor },
      );
    }
  }
}
