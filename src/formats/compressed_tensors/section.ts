/**
 * compressed-tensors' section of config.json, both ways. Only keys are written that every version
 * of the library knows: its `weights` and groups forbid others. Refuses to read activations in
 * groups, asymmetric ones, and scales by channel.
 */
import { CheckpointError, UnsupportedError } from "../../errors.ts";
import type { Content, PlannedWeight } from "../../format.ts";
import type { Activations, IntScheme, ScaleDType, Strategy } from "../../scheme.ts";
import { moduleOf } from "../bytes.ts";
import { quantizationSection } from "../config_json.ts";
import { plainModules } from "../skip_list.ts";
import { hasInputScale, isStored, type Stored, storedFormat } from "./layout.ts";

/** `strategy` and its size, as QuantizationArgs has them. */
function strategyKeys(strategy: Strategy): Record<string, unknown> {
  switch (strategy.kind) {
    case "group":
      return { strategy: "group", group_size: strategy.size };
    case "block":
      return { strategy: "block", block_structure: [strategy.rows, strategy.columns] };
    default:
      return { strategy: strategy.kind };
  }
}

function groupOf(scheme: Stored): Record<string, unknown> {
  const type = scheme.kind === "int" ? "int" : "float";
  return {
    weights: {
      num_bits: scheme.kind === "int" ? scheme.bits : 8,
      type,
      symmetric: scheme.kind === "fp8" || scheme.grid !== "affine",
      ...strategyKeys(scheme.strategy),
      dynamic: false,
    },
    input_activations: scheme.activations === "none" ? null : {
      num_bits: 8,
      type: scheme.activations.startsWith("int8") ? "int" : "float",
      symmetric: true,
      ...(hasInputScale(scheme)
        ? { strategy: "tensor", dynamic: false }
        : { strategy: "token", dynamic: true }),
    },
    output_activations: null,
  };
}

/**
 * Whether compressed-tensors 0.20 would look for bytes where there are words: it goes by its own
 * rule, that int weights with rounded inputs are not packed, unless the group says otherwise.
 */
function isUnexpected(scheme: Stored): boolean {
  return scheme.kind === "int" && scheme.activations !== "none" &&
    storedFormat(scheme) === "pack-quantized";
}

/** The JSON text of `quantization_config`; undefined when no weight is quantized. */
export function section(content: Content): string | undefined {
  const groups = new Map<string, { scheme: Stored; members: PlannedWeight[] }>();
  for (const weight of content.weights) {
    const { scheme } = weight;
    if (scheme && isStored(scheme)) {
      const key = JSON.stringify([groupOf(scheme), storedFormat(scheme)]);
      const group = groups.get(key);
      if (group) group.members.push(weight);
      else groups.set(key, { scheme, members: [weight] });
    }
  }
  if (groups.size === 0) return undefined;
  const quantized = [...groups.values()].flatMap(({ members }) => members);
  const { modules, towers } = plainModules(content);
  const formats = new Set([...groups.values()].map(({ scheme }) => storedFormat(scheme)));
  const mixed = formats.size > 1;
  const linears = quantized.every(({ linear, shape }) => linear && shape.length === 2);
  const entries = [...groups.values()].map(({ scheme, members }, i) => [`group_${i}`, {
    targets: groups.size === 1 && linears
      ? ["Linear"]
      : members.map(({ name }) => moduleOf(name) ?? name),
    ...groupOf(scheme),
    ...(mixed || isUnexpected(scheme) ? { format: storedFormat(scheme) } : {}),
  }]);
  return JSON.stringify({
    quant_method: "compressed-tensors",
    format: mixed ? "mixed-precision" : [...formats][0],
    quantization_status: "compressed",
    config_groups: Object.fromEntries(entries),
    ignore: [...modules, ...towers.map((tower) => `re:.*${tower}\\..*`)],
    kv_cache_scheme: null,
    global_compression_ratio: null,
  });
}

type Json = Readonly<Record<string, unknown>>;

function isJson(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function unreadable(what: string): never {
  throw new UnsupportedError(`Cannot read this compressed-tensors checkpoint: ${what}.`, {
    what: "compressed-tensors",
    reason: what,
  });
}

function wrong(what: string): never {
  throw new CheckpointError(`Cannot read config.json: ${what}`, { file: "config.json" });
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) > 0;
}

/** The strategy that QuantizationArgs means, defaults included. */
function strategyFrom({ strategy, group_size: size, block_structure: block }: Json): Strategy {
  const kind = strategy ?? (isSize(size) ? "group" : size === -1 ? "channel" : "tensor");
  if (kind === "tensor" || kind === "channel") return { kind };
  if (kind === "group" && isSize(size)) return { kind, size };
  if (kind === "block" && Array.isArray(block)) {
    const [rows, columns] = block;
    if (isSize(rows) && isSize(columns)) return { kind, rows, columns };
  }
  return wrong(`weights have strategy ${JSON.stringify([strategy, size, block])}`);
}

/** How activations are rounded: by a scale of each token, or by one that is stored. */
function activationsFrom(group: Json): Activations {
  const args = group.input_activations ?? null;
  if (args === null) return "none";
  if (isJson(args) && args.num_bits === 8 && args.symmetric !== false) {
    const { type = "int", dynamic = false, strategy = "tensor" } = args;
    const values = type === "int" ? "int8" : "fp8";
    if (dynamic === true && strategy === "token") return values;
    if (dynamic === false && strategy === "tensor") return `${values}-static`;
  }
  return unreadable(`activations are quantized as ${JSON.stringify(args)}`);
}

function schemeFrom(group: Json, scaleDType: ScaleDType): Stored {
  const { weights } = group;
  if (!isJson(weights)) return wrong("a group of quantization_config has no weights");
  const { num_bits: bits = 8, type = "int", symmetric = true, actorder } = weights;
  if (actorder === "group" || actorder === "dynamic" || actorder === true) {
    unreadable("its groups follow the order of activations (weight_g_idx)");
  }
  const strategy = strategyFrom(weights);
  if (type === "float" && bits === 8) {
    return { kind: "fp8", strategy, scaleDType, activations: activationsFrom(group) };
  }
  if (type !== "int" || !isSize(bits) || bits < 2 || bits > 8) {
    return unreadable(`weights are ${JSON.stringify(bits)}-bit ${JSON.stringify(type)}`);
  }
  return {
    kind: "int",
    bits: bits as IntScheme["bits"],
    grid: symmetric ? "full" : "affine",
    strategy,
    scaleDType,
    activations: activationsFrom(group),
  };
}

/**
 * Whether a target names a module: its path, a pattern that Python's `re.match` finds at its start,
 * or a class (undefined).
 */
function matches(target: unknown, module: string): boolean | undefined {
  if (typeof target !== "string") return wrong("a target is not text");
  if (target === module) return true;
  if (!target.startsWith("re:")) return target.includes(".") ? false : undefined;
  try {
    return new RegExp(`^(?:${target.slice(3)})`).test(module);
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    return wrong(`the target ${JSON.stringify(target)} is not a regular expression`);
  }
}

/**
 * What a checkpoint's section says of a module, or undefined when it is not of compressed-tensors.
 *
 * @throws {CheckpointError} the section is malformed, or (from the function returned) no group has
 * the module.
 * @throws {UnsupportedError} it asks for something Sluice does not read.
 */
export function readSection(
  config: Json,
): ((module: string, scaleDType: ScaleDType) => Stored) | undefined {
  const found = quantizationSection(config);
  if (found?.quant_method !== "compressed-tensors") return undefined;
  if (!isJson(found.config_groups)) return wrong("quantization_config has no config_groups");
  const groups = Object.values(found.config_groups).map((group) => {
    if (!isJson(group) || !Array.isArray(group.targets)) return wrong("a group has no targets");
    return { ...group, targets: group.targets as unknown[] } as Json & { targets: unknown[] };
  });
  return (module, scaleDType) => {
    const verdicts = groups.map((group) => ({
      group,
      names: group.targets.map((target) => matches(target, module)),
    }));
    // Names and patterns come before classes, as in the library.
    const group = verdicts.find(({ names }) => names.includes(true)) ??
      verdicts.find(({ names }) => names.includes(undefined));
    if (!group) return wrong(`no group of quantization_config has the module "${module}"`);
    return schemeFrom(group.group, scaleDType);
  };
}
