/**
 * Values of a `config.json`, read one by one with their type and range checked. A config comes from
 * strangers: a hidden size of 1e18 or a text where a number belongs must end in a sentence, before
 * anything is allocated. What is missing is what transformers takes (5.23).
 */
import { CheckpointError, UnsupportedError } from "../errors.ts";
import type { Activation } from "../family.ts";
import { isObject } from "../json.ts";

/** A parsed `config.json`, or an object inside it. */
export type Config = Readonly<Record<string, unknown>>;

/** What a number must be. */
export interface Range {
  readonly min?: number;
  readonly max?: number;
}

/**
 * Upper ends of sizes: far above any model, and far below what breaks arithmetic; a token id must
 * be exact in f32 (2^24).
 */
const MOST: Readonly<Record<string, number>> = {
  vocab_size: 2 ** 24,
  hidden_size: 2 ** 20,
  num_hidden_layers: 4096,
  num_attention_heads: 2 ** 14,
  num_key_value_heads: 2 ** 14,
  head_dim: 2 ** 12,
};

/**
 * What config.json calls activation functions. `gelu_new`, `gelu_fast` and `gelu_pytorch_tanh` are
 * one formula.
 */
const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  silu: "silu",
  swish: "silu",
  gelu: "gelu",
  gelu_new: "gelu_tanh",
  gelu_fast: "gelu_tanh",
  gelu_pytorch_tanh: "gelu_tanh",
  relu: "relu",
};

/** Reads one config. A key may have older names, which count where it is missing. */
export class ConfigReader {
  readonly config: Config;
  /** Whether the checkpoint has a tensor of this name. */
  readonly has: (tensor: string) => boolean;

  constructor(config: Config, has: (tensor: string) => boolean) {
    this.config = config;
    this.has = has;
  }

  /** The value under the first of some keys that is there and not null. */
  #value(keys: string | readonly string[]): { readonly key: string; readonly value: unknown } {
    const names = typeof keys === "string" ? [keys] : keys;
    const key = names.find((name) => (this.config[name] ?? undefined) !== undefined) ?? names[0]!;
    return { key, value: this.config[key] ?? undefined };
  }

  /** A whole number, at least 1 unless told otherwise. @throws {CheckpointError} */
  int(keys: string | readonly string[], fallback?: number, range: Range = {}): number {
    const { key, value = fallback } = this.#value(keys);
    const { min = 1, max = MOST[typeof keys === "string" ? keys : keys[0]!] ?? 2 ** 30 } = range;
    if (typeof value === "number" && Number.isInteger(value) && value >= min && value <= max) {
      return value;
    }
    return refuse(key, value, `a whole number from ${min} to ${max}`);
  }

  /** A finite number. @throws {CheckpointError} */
  number(keys: string | readonly string[], fallback?: number, range: Range = {}): number {
    const { key, value = fallback } = this.#value(keys);
    const { min = -1e12, max = 1e12 } = range;
    if (typeof value === "number" && value >= min && value <= max) return value;
    return refuse(key, value, `a number from ${min} to ${max}`);
  }

  /**
   * A whole number of at least 1, or undefined where it is null or missing. @throws
   * {CheckpointError}
   */
  intIfAny(key: string): number | undefined {
    return this.#value(key).value === undefined ? undefined : this.int(key);
  }

  /**
   * The tokens a sliding window has; undefined where it is null, or missing without a fallback.
   * @throws {CheckpointError}
   */
  window(key: string, fallback: number | undefined): number | undefined {
    return this.config[key] === null ? undefined : this.intIfAny(key) ?? fallback;
  }

  /**
   * What scores are capped at; undefined where it is null, or missing without a fallback. @throws
   * {CheckpointError}
   */
  softcap(key: string, fallback: number | undefined): number | undefined {
    if (this.config[key] === null) return undefined;
    return this.numberIfAny(key, { min: 1e-6, max: 1e6 }) ?? fallback;
  }

  /** The epsilon of a norm. @throws {CheckpointError} */
  eps(keys: string | readonly string[], fallback: number): number {
    return this.number(keys, fallback, { min: 0, max: 1 });
  }

  /** A number, or undefined where it is null or missing. @throws {CheckpointError} */
  numberIfAny(key: string, range: Range = {}): number | undefined {
    return this.#value(key).value === undefined ? undefined : this.number(key, undefined, range);
  }

  /** True or false. @throws {CheckpointError} */
  flag(key: string, fallback: boolean): boolean {
    const { value = fallback } = this.#value(key);
    return typeof value === "boolean" ? value : refuse(key, value, "true or false");
  }

  /** Text. @throws {CheckpointError} */
  text(key: string, fallback?: string): string {
    const { value = fallback } = this.#value(key);
    return typeof value === "string" ? value : refuse(key, value, "text");
  }

  /** A reader of an object, or undefined when it is missing or null. @throws {CheckpointError} */
  object(key: string): ConfigReader | undefined {
    const { value } = this.#value(key);
    if (value === undefined) return undefined;
    return isObject(value)
      ? new ConfigReader(value, this.has)
      : refuse(key, value, "an object or null");
  }

  /** `count` numbers. @throws {CheckpointError} */
  numbers(key: string, count: number, range: Range = {}): readonly number[] {
    const { value } = this.#value(key);
    const { min = -1e12, max = 1e12 } = range;
    const fits = Array.isArray(value) && value.length === count &&
      value.every((item) => typeof item === "number" && item >= min && item <= max);
    return fits ? value as number[] : refuse(key, value, `a list of ${count} numbers`);
  }

  /**
   * An activation function.
   *
   * @throws {UnsupportedError} one that is not computed here.
   * @throws {CheckpointError} no text.
   */
  activation(keys: string | readonly string[], fallback: string): Activation {
    const { key, value = fallback } = this.#value(keys);
    if (typeof value !== "string") return refuse(key, value, "text");
    const found = Object.hasOwn(ACTIVATIONS, value) ? ACTIVATIONS[value] : undefined;
    return found ?? this.refuse(key, `one of ${Object.keys(ACTIVATIONS).join(", ")}`);
  }

  /**
   * Refuse a value that no family computes.
   *
   * @throws {UnsupportedError} always.
   */
  refuse(key: string, expected: string): never {
    const found = `${key} is ${JSON.stringify(this.config[key])?.slice(0, 80)}`;
    throw new UnsupportedError(
      `Cannot run this model: in its config.json ${found}, expected ${expected}. It can still be ` +
        "quantized by methods that need no text, without an evaluation.",
      { what: key, reason: `${found}, expected ${expected}` },
    );
  }

  /**
   * The kind of each layer's attention: `layer_types`, or what the family takes where it is
   * missing.
   *
   * @throws {UnsupportedError} a kind that is neither `full_attention` nor `sliding_attention`.
   */
  layerTypes(layers: number, fallback: (layer: number) => boolean): readonly LayerType[] {
    const { value } = this.#value("layer_types");
    if (value === undefined) {
      return Array.from(
        { length: layers },
        (_, i) => fallback(i) ? "sliding_attention" : "full_attention",
      );
    }
    if (!Array.isArray(value) || value.length < layers) {
      return refuse("layer_types", value, `a list of ${layers} names`);
    }
    const known = value.every((type) => type === "full_attention" || type === "sliding_attention");
    return known
      ? value as LayerType[]
      : this.refuse("layer_types", "full_attention and sliding_attention");
  }

  /**
   * Check that all layers have one kind of attention.
   *
   * @throws {UnsupportedError} some do not.
   */
  oneLayerType(layers: number, type: LayerType): void {
    const types = this.layerTypes(layers, () => type === "sliding_attention");
    if (types.some((other) => other !== type)) this.refuse("layer_types", `${type} everywhere`);
  }
}

/** What the tokens of a layer see: all before them, or a window. */
export type LayerType = "full_attention" | "sliding_attention";

/** Refuse a value: `"hidden_size" is "many", expected …`. */
function refuse(key: string, value: unknown, want: string): never {
  const found = value === undefined ? "is missing" : `is ${JSON.stringify(value)?.slice(0, 80)}`;
  throw new CheckpointError(
    `Cannot use config.json: "${key}" ${found}, expected ${want}. Check that the file belongs to this checkpoint.`,
    { file: "config.json" },
  );
}

/** Refuse sizes that do not fit together. */
export function refuseSizes(why: string): never {
  throw new CheckpointError(`Cannot use config.json: ${why}.`, { file: "config.json" });
}
