/**
 * What a checkpoint will hold, as a format's section and its loaders are told it; and what follows
 * from it for `config.json`.
 */
import { isTied, type Model } from "../family.ts";
import type { Content, PlannedWeight, StoredWeight } from "../format.ts";
import { classOf, headOf } from "../formats/architectures.ts";
import { hasHead } from "../families/mod.ts";
import { checkCast } from "../formats/bytes.ts";
import { torchName } from "../formats/config_json.ts";
import { isObject } from "../json.ts";
import { bytesFrom, floatsFrom } from "../number.ts";
import type { TensorSource } from "../source.ts";
import { elementCount, type FloatDType, isFloat, type Shape, type TensorInfo } from "../tensor.ts";
import { graphsOf, transposedTensors } from "../graph/block_graph.ts";
import type { CopyTask, Decisions } from "./tasks.ts";

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

/**
 * A tensor that a pattern may name though the checkpoint has none of that name: an output head that
 * is tied to the embedding. A config that does not say whether it is leaves it to the model's
 * class.
 */
export function tiedHead(
  { config, tensors }: Pick<TensorSource, "config" | "tensors">,
): string | undefined {
  const name = classOf({ config });
  if (!hasHead(config)) return undefined;
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
  { model, decisions }: { readonly model: Model | undefined; readonly decisions: Decisions },
): PlannedWeight[] {
  const linears = new Set(
    model && graphsOf(model).flatMap(({ matrices }) => matrices.map(({ at }) => at.of)),
  );
  const turned = model && transposedTensors(model);
  const head = model?.head && !isTied(model) ? model.head.linear.at.of : undefined;
  const weights: PlannedWeight[] = [];
  for (const decision of decisions.values()) {
    if (decision.kind === "drop") continue;
    const { name, source: { shape } } = decision;
    // Beside the model that is run there may be others: a wrapper's tower of pictures.
    const linear = model?.shapes.has(name)
      ? linears.has(name) || name === head
      : isLinearByName(name, shape);
    const quantized = decision.kind === "quantize" && decision.scheme.kind !== "cast"
      ? decision
      : undefined;
    if (!linear && !quantized) continue;
    const inputsFirst = turned
      ? turned.has(name) && "turned"
      : hasInputsFirst({ name, shape }, source.tensors) && "kept";
    weights.push({
      name,
      shape: quantized?.weight.shape ?? shape,
      scheme: quantized?.scheme,
      linear,
      ...(inputsFirst ? { inputsFirst } : {}),
      ...(quantized
        ? { chosen: { method: quantized.chain.name, options: quantized.rule.options } }
        : {}),
    });
  }
  if (model && isTied(model)) {
    const { vocabSize, hiddenSize } = model;
    weights.push({
      name: `${headOf(source)}.weight`,
      shape: [vocabSize, hiddenSize],
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
  model: Model | undefined,
): Content {
  const turned = model && transposedTensors(model);
  const weights: PlannedWeight[] = [];
  const parts = new Set([...stored.values()].flatMap(({ parts }) => parts.map(({ name }) => name)));
  for (const { name, shape, scheme } of stored.values()) {
    if (scheme.kind === "cast") continue;
    const inputsFirst = turned
      ? turned.has(name) && "turned"
      : hasInputsFirst({ name, shape }, tensors) && "kept";
    weights.push({ name, shape, scheme, linear: true, ...(inputsFirst ? { inputsFirst } : {}) });
  }
  for (const { name, shape } of tensors.values()) {
    if (parts.has(name) || !isLinearByName(name, shape)) continue;
    weights.push({ name, shape, scheme: undefined, linear: true });
  }
  return { weights, config, dtype: torchName(announcedDType(config) ?? "f32") };
}

/** The shape that a model's tensor has, or has where it is not quantized, by its name. */
export function shapesOf(
  { tensors }: Pick<TensorSource, "tensors">,
  stored: ReadonlyMap<string, Pick<StoredWeight, "shape">>,
  model: Model | undefined,
): (tensor: string) => Shape | undefined {
  const turned = model && transposedTensors(model);
  return (name) => {
    const shape = stored.get(name)?.shape;
    if (!shape) return tensors.get(name)?.shape;
    return turned?.has(name) ? shape.toReversed() : shape;
  };
}

/** Whether a tensor of a model that Sluice does not know is the weight of a linear layer. */
export function isLinearByName(name: string, shape: readonly number[]): boolean {
  return shape.length === 2 && name.endsWith(".weight") &&
    !/embed(?!_out)|norm|(^|\.)(wte|wpe|shared|relative_attention_bias)\./.test(name);
}

/** The dtype that most of what is not quantized otherwise has, or is cast to. */
export function commonDType(decisions: Decisions): FloatDType {
  const counts = new Map<FloatDType, number>();
  for (const decision of decisions.values()) {
    const { dtype, shape } = decision.source;
    const becomes = decision.kind === "quantize" && decision.scheme.kind === "cast"
      ? decision.scheme.dtype
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
export function copied<B extends ArrayBufferLike>(
  { source: { name, dtype }, dtype: to }: Pick<CopyTask, "source" | "dtype">,
  bytes: Uint8Array<B>,
): Uint8Array<ArrayBuffer | B> {
  if (to === dtype || !isFloat(to) || !isFloat(dtype)) return bytes;
  const values = bytesFrom(to, floatsFrom(dtype, bytes));
  if (to === "f16") checkCast(values, to, name);
  return values;
}
