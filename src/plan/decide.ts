/**
 * What becomes of one tensor: quantized by which rule, copied, or dropped, and why. Reads names,
 * shapes and dtypes only; every refusal is a sentence. What an unknown architecture's tensors are
 * is judged by their names.
 */
import { quote, UnsupportedError } from "../errors.ts";
import { isTied, type Model, type View } from "../family.ts";
import type { ScaleDType } from "../scheme.ts";
import { towerOf } from "../formats/layer_patterns.ts";
import { graphsOf } from "../graph/block_graph.ts";
import { matrixInfo } from "../graph/matrix_reader.ts";
import { type Chain, chainNamed, methodsOf } from "../methods/mod.ts";
import { matches, type Recipe, type Rule } from "../recipe.ts";
import type { Scheme } from "../scheme.ts";
import { schemeKind } from "../schemes/mod.ts";
import { schemeFrom } from "../schemes/options.ts";
import { isFloat, matrixShape, type TensorInfo } from "../tensor.ts";
import type { Runnable } from "./model.ts";
import { inputObserver, isCalibrated, observersOf } from "./needs.ts";
import type { Decision, QuantizeDecision } from "./tasks.ts";

/** Left alone in every architecture unless a rule names them. */
const SPARED: readonly (readonly [pattern: RegExp, what: string])[] = [
  [/(^|\.)(lm_head|embed_out|score|(pre_)?classifier|qa_outputs|predictions)\./, "the output head"],
  [/(^|\.)output\.weight$/, "the output head"],
  [/(^|[._])(embed\w*|wte|wpe|(tok|word|position)_embeddings)([._]|$)/, "an embedding"],
  [/(^|\.)relative_attention_bias\.|^(\w+\.)?shared\.weight$/, "an embedding"],
  [/(^|[._])(router|gate)\.(\w+\.)?weight$/, "a router"],
  [/(norm|(^|\.)ln_?\w*|layernorm)\.weight$/i, "a norm"],
];

/** What `auto` takes where rounding to nearest loses too much. */
const CALIBRATED = "awq+gptq";

function sparedBecause(name: string): string | undefined {
  const tower = towerOf(name);
  if (tower !== undefined) return `of the ${tower}, beside the text model`;
  return SPARED.find(([pattern]) => pattern.test(name))?.[1];
}

/** Why a tensor is left out of every output; undefined for one that is not. */
export function droppedBecause(name: string): string | undefined {
  return /\.rotary_emb\.inv_freq$/.test(name)
    ? "rotary frequencies that every loader computes from config.json"
    : undefined;
}

/** Whether `auto` calibrates: at 6 bits and below rounding to nearest loses more than it must. */
function wantsCalibration(scheme: Scheme): boolean {
  return scheme.kind === "int" && scheme.bits <= 6;
}

/** The methods that `auto` means for a linear of a block, in a model that can be run. */
export function usualMethod(scheme: Scheme): string {
  return wantsCalibration(scheme) ? CALIBRATED : "rtn";
}

/** Decides by one recipe. */
export class Decider {
  readonly #recipe: Recipe;
  readonly #model: Model | undefined;
  readonly #reason: string | undefined;
  readonly #scaleDType: ScaleDType | undefined;
  /** How the weights of the blocks' linears lie in their tensors, by tensor. */
  readonly #linears: ReadonlyMap<string, Omit<View, "rows">> | undefined;
  #degraded = false;

  /**
   * @param options.scaleDType The dtype of scales in the format that was asked for, if it has one
   * of its own.
   */
  constructor(
    recipe: Recipe,
    { model, reason }: Runnable,
    { scaleDType }: { readonly scaleDType: ScaleDType | undefined },
  ) {
    this.#recipe = recipe;
    this.#model = model;
    this.#reason = reason;
    this.#scaleDType = scaleDType;
    this.#linears = model && new Map(
      graphsOf(model).flatMap(({ matrices }) => matrices.map(({ at }) => [at.of, at])),
    );
  }

  /**
   * Whether weights that `auto` would have calibrated are rounded to nearest, because the model
   * cannot be run.
   */
  get degraded(): boolean {
    return this.#degraded;
  }

  /**
   * What becomes of a tensor.
   *
   * @throws {UnsupportedError} a rule asks for what a scheme or a method cannot do with it.
   */
  decide(source: TensorInfo): Decision {
    const { name, shape, dtype } = source;
    const copy = (reason: string): Decision => ({ kind: "copy", name, source, reason, dtype });
    const useless = droppedBecause(name);
    if (useless !== undefined) return { kind: "drop", name, source, reason: useless };
    if (!isFloat(dtype)) return copy(`${dtype} is no float dtype that is quantized`);
    const ignored = this.#recipe.ignore.find((pattern) => matches(pattern, name));
    if (ignored !== undefined) return copy(`ignored by "${ignored}"`);
    const rule = this.#recipe.rules.find(({ match }) =>
      match === undefined || matches(match, name)
    );
    if (!rule) return copy("no rule matches it");
    if (rule.scheme === "none") {
      return copy(
        rule.match === undefined
          ? "left alone by the scheme none"
          : `left alone by the rule for "${rule.match}"`,
      );
    }
    const scheme = schemeFrom(rule.scheme, rule.options, {
      modelDType: dtype,
      scaleDType: this.#scaleDType,
    });
    if (scheme.kind === "cast") {
      const chain = chainNamed("rtn");
      return scheme.dtype === dtype
        ? copy(`it is ${dtype} already`)
        : { kind: "quantize", name, source, at: { of: name }, weight: source, rule, scheme, chain };
    }
    if (shape.length !== 2 && shape.length !== 4) {
      return copy(`${shape.length}-D: only 2-D and 4-D weights are quantized`);
    }
    const spared = rule.match === undefined ? this.#sparedBecause(name) : undefined;
    if (spared !== undefined) return copy(spared);
    const at = this.#linears?.get(name) ?? { of: name };
    const weight = {
      ...matrixInfo(at, source),
      ...(at.transposed ? { transposed: true } as const : {}),
    };
    const chain = this.#chainOf(name, rule, scheme);
    const decision = { kind: "quantize", name, source, at, weight, rule, scheme, chain } as const;
    this.#check(decision);
    return decision;
  }

  /** Why a rule for all weights does not mean this one; undefined where it does. */
  #sparedBecause(name: string): string | undefined {
    if (this.#linears) {
      return this.#linears.has(name)
        ? undefined
        : sparedBecause(name) ?? "not the weight of a block's linear layer";
    }
    return /(^|\.)weight$/.test(name) ? sparedBecause(name) : "not called a module's weight";
  }

  #chainOf(name: string, { method }: Rule, scheme: Scheme): Chain {
    if (method !== "auto") return chainNamed(method);
    const wanted = wantsCalibration(scheme);
    this.#degraded ||= wanted && !this.#model;
    return chainNamed(this.#linears?.has(name) ? usualMethod(scheme) : "rtn");
  }

  #check(decision: QuantizeDecision): void {
    const { name, source, weight, scheme, rule, chain } = decision;
    if (name === this.#model?.embedding.table) {
      refuse(
        name,
        isTied(this.#model)
          ? "it is both the embedding and the output head (tied), and no format stores a quantized embedding"
          : "no format stores a quantized embedding",
      );
    }
    const verdict = schemeKind(scheme).check(scheme, matrixShape(weight.shape));
    if (verdict !== true) refuse(name, verdict);
    for (const method of methodsOf(chain)) {
      const able = method.supports(scheme, rule.options);
      if (able !== true) refuse(name, able);
    }
    if (!isCalibrated(decision)) return;
    if (!this.#linears?.has(source.name)) this.#refuseUnseen(decision);
    if (observersOf(decision).length > 0) {
      const shapes = schemeKind(scheme).choice?.check(scheme, weight.shape) ?? true;
      if (shapes !== true) refuse(name, shapes);
    }
  }

  /** @throws {UnsupportedError} always: the weight's inputs are not seen. */
  #refuseUnseen({ name, scheme, rule, chain }: QuantizeDecision): never {
    const fixed = inputObserver(scheme, rule.options) !== undefined;
    const why = this.#model
      ? "it is not a linear layer of a block"
      : `Sluice cannot run this model (${this.#reason})`;
    refuse(
      name,
      `${fixed ? "a fixed scale of activations" : chain.name} must see its inputs, and ${why}; ${
        fixed ? "dynamic activations need" : "rtn needs"
      } none`,
    );
  }
}

/** @throws {UnsupportedError} always. */
export function refuse(tensor: string, reason: string): never {
  throw new UnsupportedError(`Cannot quantize ${quote(tensor)}: ${reason}.`, {
    what: tensor,
    reason,
  });
}
