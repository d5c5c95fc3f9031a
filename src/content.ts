/**
 * What a checkpoint will hold, as a format's section and its loaders are told it; and what follows
 * from it for `config.json`.
 */
import type { Fate } from "./assign.ts";
import type { Model } from "./family.ts";
import type { Content, PlannedWeight, StoredWeight } from "./format.ts";
import { classOf, headOf } from "./formats/architectures.ts";
import { checkHalves } from "./formats/bytes.ts";
import { torchName } from "./formats/config_json.ts";
import { isObject } from "./json.ts";
import { bytesFrom, floatsFrom } from "./number.ts";
import type { TensorSource } from "./source.ts";
import { elementCount, type TensorInfo } from "./tensor.ts";

/** A float dtype that weights may have. */
export type FloatDType = "f32" | "bf16" | "f16";

/** Whether a dtype is one that weights may have. */
export function isFloat(dtype: string): dtype is FloatDType {
  return dtype === "f32" || dtype === "bf16" || dtype === "f16";
}

/**
 * The value of a key in `config.json`, or where that is of a wrapper, in the text model's part of
 * it.
 */
function valueOf(config: Content["config"], ...keys: readonly string[]): unknown {
  const text = isObject(config.text_config) ? config.text_config : {};
  return [config, text].flatMap((part) => keys.map((key) => part[key]))
    .find((value) => value !== undefined && value !== null);
}

/**
 * The dtype that `config.json` says the weights have; undefined where it says none that they can
 * have.
 */
export function announcedDType(config: Content["config"]): FloatDType | undefined {
  const said = valueOf(config, "dtype", "torch_dtype");
  return (["bf16", "f16", "f32"] as const).find((dtype) => torchName(dtype) === said);
}

/** Classes that have an output head over the vocabulary, which may be the embedding. */
const WITH_HEAD = /(ForCausalLM|LMHeadModel|ForMaskedLM|ForConditionalGeneration|MTModel)$/;

/**
 * A tensor that a pattern may name though the checkpoint has none of that name: an output head that
 * is tied to the embedding. A config that does not say whether it is leaves it to the model's
 * class.
 */
export function tiedHead(
  { config, tensors }: Pick<TensorSource, "config" | "tensors">,
): string | undefined {
  const name = classOf({ config });
  // A classifier's config may say that they are tied, and there is no such head.
  if (name !== undefined && !WITH_HEAD.test(name)) return undefined;
  const tied = valueOf(config, "tie_word_embeddings") ?? name !== undefined;
  const head = `${headOf({ config })}.weight`;
  return tied === true && !tensors.has(head) ? head : undefined;
}

/**
 * Whether a head of its own is quantized under a config that ties it: loaders would put the
 * embedding in its place.
 */
export function isUntied({ weights, config }: Pick<Content, "weights" | "config">): boolean {
  const head = `${headOf({ config })}.weight`;
  return valueOf(config, "tie_word_embeddings") !== false &&
    weights.some(({ name, scheme }) => scheme !== undefined && name === head);
}

/**
 * Whether a matrix has its inputs as rows: its bias has as many elements as it has columns. One
 * that is square tells nothing by itself; its neighbours do.
 */
export function hasInputsFirst(
  { name, shape }: Pick<TensorInfo, "name" | "shape">,
  tensors: TensorSource["tensors"],
): boolean {
  const bias = tensors.get(name.replace(/\.weight$/, ".bias"));
  const [rows, columns] = shape;
  return bias !== undefined && bias.name !== name && shape.length === 2 && rows !== columns &&
    elementCount(bias.shape) === columns;
}

/** The weights of a plan, as sections and loaders see them. */
export function plannedWeights(
  source: TensorSource,
  { model, fates }: { model: Model | undefined; fates: ReadonlyMap<string, Fate> },
): PlannedWeight[] {
  const linears = model &&
    new Set(model.blocks.flatMap((block) => block.linears.map(({ weight }) => weight)));
  const weights: PlannedWeight[] = [];
  for (const { name, shape } of source.tensors.values()) {
    const fate = fates.get(name)!;
    if (fate.kind === "drop") continue;
    const linear = linears
      ? linears.has(name) || name === model!.head.weight && name !== model!.embedding
      : isLinearByName(name, shape);
    const quantized = fate.kind === "quantize" && fate.scheme.kind !== "cast" ? fate : undefined;
    if (!linear && !quantized) continue;
    weights.push({
      name,
      shape,
      scheme: quantized?.scheme,
      linear,
      ...(hasInputsFirst({ name, shape }, source.tensors) ? { inputsFirst: true } : {}),
      ...(quantized
        ? { chosen: { method: quantized.chain.name, options: quantized.rule.options } }
        : {}),
    });
  }
  if (model && model.head.weight === model.embedding) {
    weights.push({
      name: "lm_head.weight",
      shape: [model.vocabSize, model.hiddenSize],
      scheme: undefined,
      linear: true,
    });
  }
  return weights;
}

/** What a checkpoint holds that was read back. */
export function contentOf(
  { tensors, config }: Pick<TensorSource, "tensors" | "config">,
  stored: ReadonlyMap<string, StoredWeight>,
): Content {
  const weights: PlannedWeight[] = [];
  const parts = new Set([...stored.values()].flatMap(({ parts }) => parts.map(({ name }) => name)));
  for (const { name, shape, scheme } of stored.values()) {
    if (scheme.kind === "cast") continue;
    const inputsFirst = hasInputsFirst({ name, shape }, tensors);
    weights.push({ name, shape, scheme, linear: true, ...(inputsFirst ? { inputsFirst } : {}) });
  }
  for (const { name, shape } of tensors.values()) {
    if (parts.has(name) || !isLinearByName(name, shape)) continue;
    weights.push({ name, shape, scheme: undefined, linear: true });
  }
  return { weights, config, dtype: torchName(announcedDType(config) ?? "f32") };
}

/** Whether a tensor of a model that Sluice does not know is the weight of a linear layer. */
export function isLinearByName(name: string, shape: readonly number[]): boolean {
  return shape.length === 2 && name.endsWith(".weight") &&
    !/embed(?!_out)|norm|(^|\.)(wte|wpe|shared|relative_attention_bias)\./.test(name);
}

/** The dtype that most of what is not quantized otherwise has, or is cast to. */
export function commonDType(
  source: Pick<TensorSource, "tensors">,
  fates: ReadonlyMap<string, Fate>,
): FloatDType {
  const counts = new Map<FloatDType, number>();
  for (const { name, dtype, shape } of source.tensors.values()) {
    const fate = fates.get(name)!;
    const becomes = fate.kind === "quantize" && fate.scheme.kind === "cast"
      ? fate.scheme.dtype
      : dtype;
    if (isFloat(becomes)) {
      counts.set(becomes, (counts.get(becomes) ?? 0) + elementCount(shape));
    }
  }
  const [most] = [...counts].sort((a, b) => b[1] - a[1]);
  return most?.[0] ?? "f32";
}

/**
 * The bytes of a tensor that is not quantized, in the dtype it is to have.
 *
 * @throws {CheckpointError} f16 has no room for a value.
 */
export function copied(
  { name, dtype }: Pick<TensorInfo, "name" | "dtype">,
  fate: Fate,
  bytes: Uint8Array<ArrayBuffer>,
): Uint8Array<ArrayBuffer> {
  if (fate.kind !== "copy" || fate.dtype === undefined || !isFloat(dtype)) return bytes;
  const values = bytesFrom(fate.dtype, floatsFrom(dtype, bytes));
  if (fate.dtype === "f16") checkHalves(values, name);
  return values;
}
