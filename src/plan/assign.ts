/**
 * What becomes of all tensors of a checkpoint (decide.ts says it of one), in which format, and what
 * follows from that for tensors that stand beside quantized weights. Every refusal is a sentence.
 */
import { RequestError, UnsupportedError } from "../errors.ts";
import type { Content, Format } from "../format.ts";
import { torchName } from "../formats/config_json.ts";
import { formatNamed, FORMATS } from "../formats/mod.ts";
import { plain } from "../formats/plain.ts";
import { graphsOf } from "../graph/block_graph.ts";
import type { Model } from "../family.ts";
import { METHODS, methodsOf } from "../methods/mod.ts";
import { matches, type Recipe } from "../recipe.ts";
import type { Warning } from "../report.ts";
import type { TensorSource } from "../source.ts";
import { elementCount, type FloatDType, isFloat } from "../tensor.ts";
import { announcedDType, commonDType, plannedWeights, tiedHead } from "./content.ts";
import { Decider, refuse } from "./decide.ts";
import { checkFused } from "./fused.ts";
import type { Runnable } from "./model.ts";
import { checkPatterns } from "./patterns.ts";
import { stageSmoothing, vectorsOf } from "./smoothing.ts";
import { type Decision, type Decisions, toQuantize } from "./tasks.ts";

/** Every tensor's fate, and what the format needs to know of the weights. */
export interface Assignment {
  readonly decisions: Decisions;
  readonly format: Format;
  readonly content: Content;
  /** The dtype of what is not quantized. */
  readonly modelDType: FloatDType;
  readonly warnings: readonly Warning[];
}

/**
 * Decide what becomes of every tensor.
 *
 * @throws {UnsupportedError} a rule asks for what a scheme, a method, a format or this checkpoint
 * cannot do.
 * @throws {RequestError} a rule has an option that its scheme or its methods do not take.
 */
export function assign(recipe: Recipe, source: TensorSource, runnable: Runnable): Assignment {
  const { model, reason } = runnable;
  const asked = recipe.format === undefined ? undefined : formatNamed(recipe.format);
  const virtual = tiedHead(source);
  checkPatterns(recipe, source, virtual);
  const decider = new Decider(recipe, runnable, { scaleDType: asked?.scaleDType });
  const decisions = new Map(
    [...source.tensors.values()].map((tensor) => [tensor.name, decider.decide(tensor)]),
  );
  checkRules(recipe, { source, virtual, decisions });
  checkMethodOptions(recipe, decisions);
  if (toQuantize(decisions).length === 0) refuseNothing(source, decisions);
  if (model) smoothVectors(model, decisions);
  const format = chooseFormat(asked, decisions);
  if (format !== plain) checkFused(model, decisions);
  const casts = toQuantize(decisions).some(({ scheme }) => scheme.kind === "cast");
  const modelDType = (casts ? undefined : announcedDType(source.config)) ?? commonDType(decisions);
  if (format.castsRest) castRest(decisions, { dtype: modelDType, format });
  return {
    decisions,
    format,
    content: {
      weights: plannedWeights(source, { model, decisions }),
      config: source.config,
      dtype: torchName(modelDType),
    },
    modelDType,
    warnings: reason !== undefined && decider.degraded
      ? [{
        code: "rounded-to-nearest",
        message: `Weights of 6 bits and below are rounded to nearest, which loses more: Sluice ` +
          `cannot run this model to calibrate (${reason}).`,
      }]
      : [],
  };
}

/** @throws {UnsupportedError} a rule with a pattern quantizes nothing. */
function checkRules(
  recipe: Recipe,
  { source, virtual, decisions }: {
    readonly source: TensorSource;
    readonly virtual: string | undefined;
    readonly decisions: Decisions;
  },
): void {
  const used = new Set(toQuantize(decisions).map(({ rule }) => rule));
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
}

/**
 * Which method `auto` takes depends on the weight, so an option is judged by all weights of a rule.
 *
 * @throws {RequestError} a rule has an option of methods by which none of its weights goes.
 */
function checkMethodOptions({ rules }: Recipe, decisions: Decisions): void {
  for (const rule of rules) {
    const { match, method, options } = rule;
    const chains = toQuantize(decisions).flatMap((decision) =>
      decision.rule === rule ? decision.chain : []
    );
    const used = new Set(chains.flatMap(methodsOf));
    for (const name of used.size > 0 ? Object.keys(options) : []) {
      const takers = METHODS.filter((one) => one.options.some((option) => option.name === name));
      if (takers.length === 0 || takers.some((taker) => used.has(taker))) continue;
      const where = match === undefined ? "" : ` in the rule for "${match}"`;
      const names = [...new Set(chains.map(({ name }) => name))].join(", ");
      throw new RequestError(
        `Cannot use \`${name}\` with method ${names}${
          method === "auto" ? " (which auto takes here)" : ""
        }${where}: it is an option of ${takers.map(({ name }) => name).join(" and ")}.`,
      );
    }
  }
}

/** Norms and biases that take over scales are rewritten. */
function smoothVectors(model: Model, decisions: Map<string, Decision>): void {
  for (const graph of graphsOf(model)) {
    for (const stage of graph.stages) {
      const smoothing = stageSmoothing(graph, stage, (name) => decisions.get(name));
      if (!smoothing) continue;
      const methods = smoothing.methods.map(({ name }) => name).join(", ");
      for (const name of vectorsOf(smoothing.source)) {
        const { source } = decisions.get(name)!;
        const reason = `divided by the scales that ${methods} moves`;
        decisions.set(name, { kind: "smooth", name, source, reason });
      }
    }
  }
}

/**
 * @throws {UnsupportedError} always: no weight is to be quantized; the sentence has the reasons,
 * those of most weights first.
 */
function refuseNothing(source: TensorSource, decisions: Decisions): never {
  const elements = new Map<string, number>();
  for (const decision of decisions.values()) {
    const { shape } = decision.source;
    if (decision.kind === "quantize" || shape.length < 2) continue;
    const { reason } = decision;
    elements.set(reason, (elements.get(reason) ?? 0) + elementCount(shape));
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

function chooseFormat(asked: Format | undefined, decisions: Decisions): Format {
  const quantized = toQuantize(decisions);
  // Nothing else holds what learned codebooks are rounded to.
  const plainly = quantized.every(({ scheme }) =>
    scheme.kind === "cast" || scheme.kind === "codebook"
  );
  // Schemes were made for a format with a dtype of its own only if it was asked for; rounded values
  // as plain weights, too, are asked for.
  const candidates = asked
    ? [asked]
    : FORMATS.filter(({ scaleDType, unwritten }) => !scaleDType && !unwritten)
      .filter((format) => plainly || format !== plain);
  const reasons: string[] = [];
  for (const format of candidates) {
    const verdict = quantized.map(({ name, weight, scheme }) => {
      const able = format.supports(scheme, weight);
      return able === true ? true : `${format.name} cannot hold "${name}": ${able}`;
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
  decisions: Map<string, Decision>,
  { dtype, format }: { readonly dtype: FloatDType; readonly format: Format },
): void {
  for (const [name, decision] of decisions) {
    const { dtype: own } = decision.source;
    if (!isFloat(own) || own === dtype || KEPT_IN_F32.test(name)) continue;
    if (decision.kind === "smooth") {
      refuse(
        name,
        `it is ${own}, loaders of ${format.name} want it in ${dtype}, and a norm that takes over scales keeps its dtype; ` +
          `cast the model to ${dtype} first, or use a method that moves no scales`,
      );
    }
    if (decision.kind !== "copy") continue;
    const reason = `${decision.reason}; loaders of ${format.name} want it in ${dtype}`;
    decisions.set(name, { ...decision, dtype, reason });
  }
}
