/**
 * What becomes of each tensor: quantized by which rule, copied, or dropped, and why. Reads names,
 * shapes and dtypes only; every refusal is a sentence. What an unknown architecture's tensors are
 * is judged by their names.
 */
import {
  announcedDType,
  commonDType,
  type FloatDType,
  isFloat,
  plannedWeights,
  tiedHead,
} from "./content.ts";
import { UnsupportedError } from "./errors.ts";
import type { Model, ScaleSource, Step } from "./family.ts";
import type { Format, PlannedWeight } from "./format.ts";
import { towerOf } from "./formats/layer_patterns.ts";
import { formatNamed, FORMATS } from "./formats/mod.ts";
import { plain } from "./formats/plain.ts";
import { checkFused } from "./fused.ts";
import type { ScalingMethod } from "./method.ts";
import { type Chain, chainNamed } from "./methods/mod.ts";
import type { Observer } from "./observer.ts";
import { gram } from "./observers/gram.ts";
import type { OptionValues } from "./option.ts";
import { checkPatterns } from "./patterns.ts";
import { matches, type Recipe, type Rule } from "./recipe.ts";
import type { Scheme } from "./scheme.ts";
import { schemeKind } from "./schemes/mod.ts";
import { schemeFrom } from "./schemes/options.ts";
import type { TensorSource } from "./source.ts";
import { elementCount, matrixShape, type TensorInfo } from "./tensor.ts";

/** What becomes of one tensor. */
export type Fate =
  | {
    readonly kind: "quantize";
    readonly rule: Rule;
    readonly scheme: Scheme;
    readonly chain: Chain;
  }
  /** As it is, or where `dtype` is given, its values in another. */
  | { readonly kind: "copy"; readonly reason: string; readonly dtype?: FloatDType }
  /** A norm that takes over scales of the linears after it; dtype and shape stay. */
  | { readonly kind: "scale"; readonly reason: string }
  | { readonly kind: "drop"; readonly reason: string };

/** A model that can be run, or the reason why it cannot. */
export type Runnable =
  | { readonly model: Model; readonly reason?: undefined }
  | { readonly model?: undefined; readonly reason: string };

/** Every tensor's fate, and what the format needs to know of the weights. */
export interface Assignment {
  readonly fates: ReadonlyMap<string, Fate>;
  readonly format: Format;
  readonly weights: readonly PlannedWeight[];
  /** The dtype of what is not quantized. */
  readonly modelDType: FloatDType;
  readonly warnings: readonly { readonly code: string; readonly message: string }[];
}

/** Left alone in every architecture unless a rule names them. */
const SPARED: readonly (readonly [pattern: RegExp, what: string])[] = [
  [/(^|\.)(lm_head|embed_out|score|(pre_)?classifier|qa_outputs|predictions)\./, "the output head"],
  [/(^|\.)output\.weight$/, "the output head"],
  [/(^|[._])(embed\w*|wte|wpe|(tok|word|position)_embeddings)([._]|$)/, "an embedding"],
  [/(^|\.)relative_attention_bias\.|^(\w+\.)?shared\.weight$/, "an embedding"],
  [/(^|[._])(router|gate)\.(\w+\.)?weight$/, "a router"],
  [/(norm|(^|\.)ln_?\w*|layernorm)\.weight$/i, "a norm"],
];

function sparedBecause(name: string): string | undefined {
  const tower = towerOf(name);
  if (tower !== undefined) return `of the ${tower}, beside the text model`;
  return SPARED.find(([pattern]) => pattern.test(name))?.[1];
}

/**
 * Decide every tensor's fate.
 *
 * @throws {UnsupportedError} a rule asks for what a scheme, a method, a format or this checkpoint
 * cannot do.
 */
export function assign(
  recipe: Recipe,
  source: TensorSource,
  { model, reason }: Runnable,
): Assignment {
  const linears = model &&
    new Set(model.blocks.flatMap((block) => block.linears.map((l) => l.weight)));
  const tied = model !== undefined && model.head.weight === model.embedding;
  const asked = recipe.format === undefined ? undefined : formatNamed(recipe.format);
  const virtual = tiedHead(source);
  checkPatterns(recipe, source, virtual);
  const fates = new Map<string, Fate>();
  const used = new Set<Rule>();
  let degraded = false;
  for (const tensor of source.tensors.values()) {
    const fate = decide(tensor);
    if (fate.kind === "quantize") used.add(fate.rule);
    fates.set(tensor.name, fate);
  }
  for (const rule of recipe.rules) {
    const { match, scheme } = rule;
    if (match === undefined || used.has(rule) || scheme === "none") continue;
    const reason = virtual !== undefined && matches(match, virtual)
      ? `"${virtual}" is tied to the embedding, and no format stores a quantized embedding`
      : `no float weight of ${source.label} that an earlier rule left matches it`;
    throw new UnsupportedError(`Cannot apply the rule for "${match}": ${reason}.`, {
      what: match,
      reason,
    });
  }
  if (used.size === 0) {
    refuseNothing(source, fates);
  }
  if (model) scaleNorms(model, fates);
  const format = chooseFormat(asked, source, fates);
  if (format !== plain) checkFused(model, fates);
  const modelDType = hasCasts(fates)
    ? commonDType(source, fates)
    : announcedDType(source.config) ?? commonDType(source, fates);
  if (format.castsRest) castRest(source, { fates, dtype: modelDType, format });
  return {
    fates,
    format,
    weights: plannedWeights(source, { model, fates }),
    modelDType,
    warnings: reason !== undefined && degraded
      ? [{
        code: "rounded-to-nearest",
        message:
          `Weights of 4 bits and below are rounded to nearest, which loses the most: Sluice ` +
          `cannot run this model to calibrate (${reason}).`,
      }]
      : [],
  };

  function decide(tensor: TensorInfo): Fate {
    const { name, shape, dtype } = tensor;
    const useless = droppedBecause(name);
    if (useless !== undefined) return { kind: "drop", reason: useless };
    if (!isFloat(dtype)) {
      return { kind: "copy", reason: `${dtype} is no float dtype that is quantized` };
    }
    const ignored = recipe.ignore.find((pattern) => matches(pattern, name));
    if (ignored !== undefined) return { kind: "copy", reason: `ignored by "${ignored}"` };
    const rule = recipe.rules.find((candidate) =>
      candidate.match === undefined || matches(candidate.match, name)
    );
    if (!rule) return { kind: "copy", reason: "no rule matches it" };
    if (rule.scheme === "none") {
      return { kind: "copy", reason: `left alone by the rule for "${rule.match}"` };
    }
    const scheme = schemeFrom(rule.scheme, rule.options, {
      modelDType: dtype,
      scaleDType: asked?.scaleDType,
    });
    if (scheme.kind === "cast") {
      return scheme.dtype === dtype
        ? { kind: "copy", reason: `it is ${dtype} already` }
        : { kind: "quantize", rule, scheme, chain: chainNamed("rtn") };
    }
    if (shape.length !== 2 && shape.length !== 4) {
      return { kind: "copy", reason: `${shape.length}-D: only 2-D and 4-D weights are quantized` };
    }
    if (rule.match === undefined) {
      if (linears && !linears.has(name)) {
        const what = sparedBecause(name) ?? "not the weight of a block's linear layer";
        return { kind: "copy", reason: what };
      }
      const spared = linears
        ? undefined
        : /(^|\.)weight$/.test(name)
        ? sparedBecause(name)
        : "not called a module's weight";
      if (spared) return { kind: "copy", reason: spared };
    }
    const wanted = rule.method === "auto" && wantsCalibration(scheme);
    degraded ||= wanted && !model;
    const chain = rule.method === "auto"
      ? chainNamed(wanted && linears?.has(name) ? CALIBRATED : "rtn")
      : chainNamed(rule.method);
    checkWeight(tensor, scheme, { rule, chain });
    return { kind: "quantize", rule, scheme, chain };
  }

  function checkWeight(
    tensor: TensorInfo,
    scheme: Scheme,
    { rule, chain }: { rule: Rule; chain: Chain },
  ): void {
    if (tied && tensor.name === model?.embedding) {
      refuse(
        tensor.name,
        "it is both the embedding and the output head (tied), and no format stores a quantized embedding",
      );
    }
    if (model && tensor.name === model.embedding) {
      refuse(tensor.name, "no format stores a quantized embedding");
    }
    const verdict = schemeKind(scheme).check(scheme, matrixShape(tensor.shape));
    if (verdict !== true) refuse(tensor.name, verdict);
    for (const method of [...chain.scaling, chain.rounding]) {
      const able = method.supports(scheme, rule.options);
      if (able !== true) refuse(tensor.name, able);
    }
    if (!isCalibrated({ scheme, rule, chain })) return;
    if (!linears?.has(tensor.name)) {
      const fixed = inputObserver(scheme, rule.options) !== undefined;
      refuse(
        tensor.name,
        `${fixed ? "a fixed scale of activations" : chain.name} must see its inputs, and ${
          model ? "it is not a linear layer of a block" : `Sluice cannot run this model (${reason})`
        }; ${fixed ? "dynamic activations need" : "rtn needs"} none`,
      );
    }
    if (observersOf({ scheme, chain, options: rule.options }).length > 0) {
      const shapes = schemeKind(scheme).choice?.check(scheme, tensor.shape) ?? true;
      if (shapes !== true) refuse(tensor.name, shapes);
    }
  }
}

/** What `auto` takes where rounding to nearest loses too much. */
const CALIBRATED = "awq+gptq";

/** Whether `auto` calibrates: at 4 bits and below rounding to nearest loses too much. */
function wantsCalibration(scheme: Scheme): boolean {
  return scheme.kind === "int" && scheme.bits <= 4 && scheme.activations === "none";
}

/** Whether quantizing a weight takes statistics of its input. */
export function isCalibrated(
  { scheme, rule, chain }: { scheme: Scheme; rule: Pick<Rule, "options">; chain: Chain },
): boolean {
  const { options } = rule;
  return observersOf({ scheme, chain, options }).length > 0 ||
    inputObserver(scheme, options) !== undefined;
}

/** What methods must see of a weight's input before scales are moved. */
export function observersOf(
  { scheme, chain, options }: {
    readonly scheme: Scheme;
    readonly chain: Chain;
    readonly options: OptionValues;
  },
): readonly Observer[] {
  return [...chain.scaling, chain.rounding].flatMap((method) => method.needs(scheme, options));
}

/**
 * Whether the original's hidden states walk along in a calibration: where targets are to be moved,
 * and some method has the Gram matrix for it.
 */
export function propagates(
  { propagate }: Pick<Recipe, "propagate">,
  fates: Iterable<Fate>,
): boolean {
  return propagate && [...fates].some((fate) =>
    fate.kind === "quantize" &&
    observersOf({ ...fate, options: fate.rule.options }).includes(gram)
  );
}

/**
 * What must be seen of a weight's input after scales were moved, for a scale that is fixed;
 * undefined where none is.
 */
export function inputObserver(scheme: Scheme, options: OptionValues): Observer | undefined {
  return schemeKind(scheme).inputScale?.observer(scheme, options);
}

/** Scales that may be moved out of a step's input. */
export interface StepScaling {
  /** Those that find scales, to be tried in this order. */
  readonly methods: readonly ScalingMethod[];
  readonly source: ScaleSource;
}

/**
 * Whether scales may be moved at a step: all its linears are quantized by the same methods, some of
 * which move scales, and what makes its input can take them over.
 */
export function scalingOf(
  { linears, scaledBy: source }: Step,
  fates: ReadonlyMap<string, Fate>,
): StepScaling | undefined {
  const chains = linears.map(({ weight }) => {
    const fate = fates.get(weight);
    return fate?.kind === "quantize" ? fate.chain : undefined;
  });
  const [first] = chains;
  if (!source || !first || chains.some((chain) => chain?.name !== first.name)) return undefined;
  const methods = first.scaling.filter(({ after }) =>
    source.kind === "norm" || after === "norms and linears"
  );
  const able = source.kind === "norm"
    ? ["copy", "scale"].includes(fates.get(source.weight)?.kind ?? "")
    : source.linear.bias === undefined && canScaleRows(fates.get(source.linear.weight));
  return able && methods.length > 0 ? { methods, source } : undefined;
}

/** Whether a weight's rows can be divided after its codes were chosen. */
function canScaleRows(fate: Fate | undefined): boolean {
  if (fate?.kind !== "quantize") return false;
  return schemeKind(fate.scheme).choice?.rowsScale(fate.scheme) === true;
}

/** Norms that take over scales are rewritten. */
function scaleNorms(model: Model, fates: Map<string, Fate>): void {
  for (const step of model.blocks.flatMap(({ steps }) => steps)) {
    const scaling = scalingOf(step, fates);
    if (scaling?.source.kind !== "norm") continue;
    const names = scaling.methods.map(({ name }) => name).join(", ");
    fates.set(scaling.source.weight, {
      kind: "scale",
      reason: `divided by the scales that ${names} moves`,
    });
  }
}

function refuse(tensor: string, reason: string): never {
  throw new UnsupportedError(`Cannot quantize "${tensor}": ${reason}.`, { what: tensor, reason });
}

/** Why a tensor is left out of every output; undefined for one that is not. */
export function droppedBecause(name: string): string | undefined {
  return /\.rotary_emb\.inv_freq$/.test(name)
    ? "rotary frequencies that every loader computes from config.json"
    : undefined;
}

/**
 * @throws {UnsupportedError} always: no weight is to be quantized; the sentence has the reasons,
 * those of most weights first.
 */
function refuseNothing(source: TensorSource, fates: ReadonlyMap<string, Fate>): never {
  const elements = new Map<string, number>();
  for (const [name, fate] of fates) {
    const { shape } = source.tensors.get(name)!;
    if (fate.kind === "quantize" || shape.length < 2) continue;
    elements.set(fate.reason, (elements.get(fate.reason) ?? 0) + elementCount(shape));
  }
  const reasons = [...elements].sort((a, b) => b[1] - a[1]).map(([reason]) => reason);
  const [first = ""] = reasons;
  const advice = first.endsWith("already")
    ? "There is nothing to do"
    : first.includes("no float dtype")
    ? "Give the checkpoint as it was trained"
    : "Give a rule whose pattern names the weights that are meant";
  throw new UnsupportedError(
    `Cannot quantize ${source.label}: the recipe leaves every one of its ${source.tensors.size} tensors ` +
      `as it is${reasons.length > 0 ? ` (${reasons.slice(0, 3).join("; ")})` : ""}. ${advice}.`,
    { what: source.label, reason: "nothing to quantize" },
  );
}

/** Whether weights are cast, and not quantized otherwise. */
function hasCasts(fates: ReadonlyMap<string, Fate>): boolean {
  return [...fates.values()].some((fate) =>
    fate.kind === "quantize" && fate.scheme.kind === "cast"
  );
}

function chooseFormat(
  asked: Format | undefined,
  source: TensorSource,
  fates: ReadonlyMap<string, Fate>,
): Format {
  const quantized = [...fates].flatMap(([name, fate]) =>
    fate.kind === "quantize" ? [{ tensor: source.tensors.get(name)!, scheme: fate.scheme }] : []
  );
  const casts = quantized.every(({ scheme }) => scheme.kind === "cast");
  // Schemes were made for a format with a dtype of its own only if it was asked for; rounded values
  // as plain weights, too, are asked for.
  const candidates = asked
    ? [asked]
    : FORMATS.filter((format) => !format.scaleDType && (casts || format !== plain));
  const reasons: string[] = [];
  for (const format of candidates) {
    const verdict = quantized.map(({ tensor, scheme }) => {
      const able = format.supports(scheme, tensor);
      return able === true ? true : `${format.name} cannot hold "${tensor.name}": ${able}`;
    }).find((one) => one !== true);
    if (verdict === undefined) return format;
    reasons.push(String(verdict));
  }
  throw new UnsupportedError(
    `Cannot store the result in ${asked?.name ?? "any one format"}: ${reasons.join("; ")}.`,
    { what: asked?.name ?? "format", reason: reasons.join("; ") },
  );
}

/**
 * Tensors that transformers computes with in float32 whatever the model's dtype
 * (`_keep_in_fp32_modules_strict`).
 */
const KEPT_IN_F32 = /(^|\.)(e_score_correction_bias|moe_statics\.\w+)$/;

/** Plan casts of what is not quantized to the dtype that the format's loaders expect. */
function castRest(
  source: TensorSource,
  { fates, dtype, format }: { fates: Map<string, Fate>; dtype: FloatDType; format: Format },
): void {
  for (const tensor of source.tensors.values()) {
    const { name, dtype: own } = tensor;
    const fate = fates.get(name)!;
    if (!isFloat(own) || own === dtype || KEPT_IN_F32.test(name)) continue;
    if (fate.kind === "scale") {
      refuse(
        name,
        `it is ${own}, loaders of ${format.name} want it in ${dtype}, and a norm that takes over ` +
          `scales keeps its dtype; cast the model to ${dtype} first, or use a method that moves no ` +
          "scales",
      );
    }
    if (fate.kind === "copy") {
      fates.set(name, {
        ...fate,
        dtype,
        reason: `${fate.reason}; loaders of ${format.name} want it in ${dtype}`,
      });
    }
  }
}
