/**
 * GPTQ's section of config.json, both ways; quantize_config.json holds the same. The section says
 * one width and group size for all layers; what differs stands in `dynamic`. Refuses to read what
 * follows the order of activations, zero points that differ, and other packings.
 */
import denoJson from "../../../deno.json" with { type: "json" };
import { CheckpointError, UnsupportedError } from "../../errors.ts";
import type { Content, PlannedWeight } from "../../format.ts";
import { isObject } from "../../json.ts";
import type { IntScheme, ScaleDType } from "../../scheme.ts";
import { quantizationSection } from "../config_json.ts";
import { leftAlone, patternsOf, type Place, placeOf } from "../layer_patterns.ts";
import { BITS, groupSize } from "./layout.ts";

/** What a layer has that another may not. */
export function widthKeys({ bits, strategy }: IntScheme) {
  return { bits, group_size: groupSize(strategy) };
}

/** Items in groups of equal keys, the largest first. */
export function kindsOf<T>(items: readonly T[], keys: (item: T) => object): T[][] {
  const groups = Map.groupBy(items, (item) => JSON.stringify(keys(item)));
  return [...groups.values()].sort((a, b) => b.length - a.length);
}

/**
 * The layers that are quantized: by names within a block, if these find no other, as optimum (ends
 * of paths) and vLLM (parts) look.
 */
function namesOf(quantized: readonly Place[], left: readonly Place[]): string[] {
  const names = [...new Set(quantized.map(({ module, block }) => block?.inner ?? module))];
  const isExact = !left.some(({ module }) => names.some((name) => module.includes(name)));
  return isExact ? names : quantized.map(({ module }) => module);
}

/**
 * How GPTQ went, in the words of GPTQModel; nothing where codes were chosen otherwise, or where
 * that is not known. Its damping is said where it was asked for: left to itself, it differs from
 * layer to layer.
 */
function calibrationOf(quantized: readonly PlannedWeight[]) {
  const [first] = quantized;
  const chosen = first?.chosen;
  const alike = quantized.every((weight) =>
    JSON.stringify(weight.chosen) === JSON.stringify(chosen)
  );
  if (!chosen || !alike) return { keys: {}, meta: {} };
  const { method, options } = chosen;
  if (!method.split("+").includes("gptq")) return { keys: {}, meta: { method } };
  const damping = options.damping;
  return {
    keys: {
      // Layers that read one input after those that make it.
      true_sequential: true,
      ...(typeof damping === "number" && damping < 1 ? { damp_percent: damping } : {}),
      act_group_aware: options["column-order"] === "group-aware",
    },
    // Scales are fixed before the first column is rounded.
    meta: { method, static_groups: true },
  };
}

/** The JSON text of `quantization_config`; undefined when no weight is quantized. */
export function section(content: Content): string | undefined {
  const { weights } = content;
  const quantized = weights.flatMap((weight) =>
    weight.scheme?.kind === "int" ? [{ ...weight, keys: widthKeys(weight.scheme) }] : []
  );
  const [usual, ...others] = kindsOf(quantized, ({ keys }) => keys);
  if (!usual) return undefined;
  const left = leftAlone(weights);
  const { keys, meta } = calibrationOf(quantized);
  const dynamic = [
    ...patternsOf(left, weights).map((pattern) => [`-:${pattern}`, {}]),
    ...others.flatMap((members) =>
      patternsOf(members.map(placeOf), weights).map((pattern) => [
        `+:${pattern}`,
        { ...members[0]!.keys, sym: true, desc_act: false },
      ])
    ),
  ];
  return JSON.stringify({
    quant_method: "gptq",
    ...usual[0]!.keys,
    sym: true,
    desc_act: false,
    // The first is read by AutoGPTQ, transformers, vLLM and SGLang, the second by GPTQModel.
    checkpoint_format: "gptq",
    format: "gptq",
    lm_head: quantized.some(({ name }) => name === "lm_head.weight"),
    pack_dtype: "int32",
    ...keys,
    ...(left.some(({ block }) => block)
      ? { modules_in_block_to_quantize: [namesOf(quantized.map(placeOf), left)] }
      : {}),
    ...(dynamic.length > 0 ? { dynamic: Object.fromEntries(dynamic) } : {}),
    meta: { quantizer: [`sluice:${denoJson.version}`], ...meta },
  });
}

type Json = Readonly<Record<string, unknown>>;

function unreadable(what: string): never {
  throw new UnsupportedError(`Cannot read this GPTQ checkpoint: ${what}.`, {
    what: "gptq",
    reason: what,
  });
}

function wrong(what: string): never {
  throw new CheckpointError(`Cannot read config.json: ${what}`, { file: "config.json" });
}

function schemeFrom(keys: Json, scaleDType: ScaleDType): IntScheme {
  const { bits, group_size: size, sym = true, desc_act: reordered = false } = keys;
  if (sym !== true) unreadable("its zero points differ (sym: false)");
  if (reordered !== false) unreadable("its groups follow the order of activations (desc_act)");
  if (typeof bits !== "number" || !BITS.includes(bits)) {
    return unreadable(`it has ${JSON.stringify(bits)} bits, not ${BITS.join(", ")}`);
  }
  if (typeof size !== "number" || size !== -1 && !(Number.isSafeInteger(size) && size > 0)) {
    return wrong(`group_size is ${JSON.stringify(size)}, not -1 or the size of a group`);
  }
  return {
    kind: "int",
    bits: bits as IntScheme["bits"],
    grid: "full",
    strategy: size === -1 ? { kind: "channel" } : { kind: "group", size },
    scaleDType,
    activations: "none",
  };
}

/**
 * `dynamic` as functions: what a module has instead of what the section says; undefined for one
 * that no pattern names.
 */
function overridesOf(dynamic: unknown): (module: string) => Json | undefined {
  if (dynamic === undefined || dynamic === null) return () => undefined;
  if (!isObject(dynamic)) return wrong("dynamic is not an object of patterns");
  const rules = Object.entries(dynamic).map(([pattern, keys]) => {
    if (!isObject(keys)) return wrong(`dynamic has no object for ${JSON.stringify(pattern)}`);
    try {
      return { test: new RegExp(`^(?:${pattern.replace(/^[+-]:/, "")})`), keys };
    } catch (cause) {
      if (!(cause instanceof SyntaxError)) throw cause;
      return wrong(`the pattern ${JSON.stringify(pattern)} is not a regular expression`);
    }
  });
  return (module) => rules.find(({ test }) => test.test(module))?.keys;
}

/**
 * What a checkpoint's section says of a module, or undefined when it is not of GPTQ.
 *
 * @throws {CheckpointError} the section is malformed.
 * @throws {UnsupportedError} it asks for something Sluice does not read.
 */
export function readSection(
  config: Json,
): ((module: string, scaleDType: ScaleDType) => IntScheme) | undefined {
  const found = quantizationSection(config);
  if (found?.quant_method !== "gptq") return undefined;
  const packing = found.checkpoint_format ?? found.format ?? "gptq";
  if (packing !== "gptq" || found.is_marlin_format === true) {
    unreadable(`its checkpoint_format is ${JSON.stringify(packing)}, not "gptq"`);
  }
  const overrides = overridesOf(found.dynamic);
  return (module, scaleDType) => schemeFrom({ ...found, ...overrides(module) }, scaleDType);
}
