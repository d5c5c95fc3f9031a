/**
 * Layers as GPTQ's and AWQ's sections name them: by paths, by names within a block, by patterns of
 * `dynamic`, which GPTQModel, vLLM and SGLang match with Python's `re.match`.
 */
import type { PlannedWeight } from "../format.ts";
import { moduleOf } from "./bytes.ts";
import { wholeOf } from "./fused_layers.ts";

/** Where a layer stands in the model. */
export interface Place {
  /** `model.layers.7.mlp.up_proj` */
  readonly module: string;
  /** `model.layers`, `7`, `mlp.up_proj`; undefined outside of the blocks. */
  readonly block:
    | { readonly prefix: string; readonly index: string; readonly inner: string }
    | undefined;
}

/** Where a weight's layer stands. */
export function placeOf({ name }: Pick<PlannedWeight, "name">): Place {
  const module = moduleOf(name) ?? name;
  const [, prefix, index, inner] = /^(.*?)\.(\d+)\.(.+)$/.exec(module) ?? [];
  const block = prefix === undefined ? undefined : { prefix, index: index!, inner: inner! };
  return { module, block };
}

/**
 * The part of a model beside its text model that a tensor belongs to: `vision_tower`; undefined for
 * the text model's own.
 */
export function towerOf(name: string): string | undefined {
  return /(?:^|\.)(vision_tower|vision_model|visual|audio_tower|multi_modal_projector)\./.exec(name)
    ?.[1];
}

/**
 * The linear layers that stay as they were; the output head is not among them, which every loader
 * leaves alone by itself.
 */
export function leftAlone(weights: readonly PlannedWeight[]): Place[] {
  return weights.filter(({ linear, scheme, name }) =>
    linear && !scheme && name !== "lm_head.weight"
  ).map(placeOf);
}

/** A text as a pattern that matches it and nothing else. */
export function escaped(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");
}

/**
 * The name of a layer within its block, as a pattern; engines ask for a part by the name of the
 * whole.
 */
function innerPattern(path: string): string {
  const dot = path.lastIndexOf(".") + 1;
  const leaf = path.slice(dot);
  const fused = wholeOf(leaf);
  return escaped(path.slice(0, dot)) + (fused ? `(?:${leaf}|${fused})` : escaped(leaf));
}

/**
 * Patterns that match these layers and no others of the weights: one for each name within a block,
 * however many blocks.
 */
export function patternsOf(
  places: readonly Place[],
  weights: readonly PlannedWeight[],
): string[] {
  const key = ({ block, module }: Place) => block ? `${block.prefix}.#.${block.inner}` : module;
  const everywhere = Map.groupBy(weights.map(placeOf), key);
  return [...Map.groupBy(places, key)].map(([name, members]) => {
    const [{ block, module }] = members as [Place];
    if (!block) return `^${escaped(module)}$`;
    const indices = members.map(({ block }) => block!.index);
    const index = indices.length === everywhere.get(name)!.length
      ? "\\d+"
      : indices.length === 1
      ? indices[0]
      : `(?:${indices.join("|")})`;
    return `^${escaped(block.prefix)}\\.${index}\\.${innerPattern(block.inner)}$`;
  });
}
