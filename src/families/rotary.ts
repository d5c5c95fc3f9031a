/**
 * Rotary position embeddings (RoFormer, arXiv 2104.09864) and the ways models stretch them: linear,
 * dynamic, llama3, YaRN (arXiv 2309.00071), LongRoPE (arXiv 2402.13753); one table for all layers,
 * or one for each kind of layer. Refused by name: proportional and everything else.
 *
 * Every step is rounded to f32 in the order transformers takes it (`modeling_rope_utils.py`, 5.23):
 * an angle is a position in the thousands times a frequency, so a last-bit difference in a
 * frequency would show in the logits.
 */
import type { RotaryTables, Rotation } from "../family.ts";
import { type ConfigReader, type LayerType, refuseSizes } from "./read.ts";

/** How a model turns its queries and keys. */
export interface Rotary {
  /** By name, for {@linkcode Model.rotary}. */
  readonly tables: Readonly<Record<string, RotaryTables>>;
  /** How heads of a layer are turned; undefined: they are not. */
  rotation(type?: LayerType): Pick<Rotation, "table" | "dims"> | undefined;
}

/** What a family takes where config.json does not say. */
export interface RotaryDefaults {
  /** Values of a head. */
  readonly headDim: number;
  readonly maxPositions: number;
  readonly theta?: number;
  /** The part of each head that is turned. */
  readonly partial?: number;
  /** Older names of kinds. */
  readonly aliases?: Readonly<Record<string, string>>;
}

/** Frequencies of a table of `dims` values, and what cosines and sines are multiplied by. */
interface Frequencies {
  at(length: number): Float32Array<ArrayBuffer>;
  readonly attentionFactor: number;
}

const f = Math.fround;
const THETA = { min: 2, max: 1e12 };
const PART = { min: 0, max: 1 };
const FACTOR = { min: 1, max: 1e6 };
const LENGTH = { min: 1, max: 2 ** 30 };

/**
 * Read the rotary settings: `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5),
 * with `rope_theta` inside it or at the top level, the kind under `rope_type` or `type`; for all
 * layers, or for each kind of layer by its name.
 *
 * @throws {UnsupportedError} a kind this file does not compute.
 * @throws {CheckpointError} a value is missing or out of range.
 */
export function readRotary(c: ConfigReader, defaults: RotaryDefaults): Rotary {
  const settings = settingsOf(c);
  const top = {
    theta: c.number("rope_theta", defaults.theta ?? 10000, THETA),
    partial: c.number("partial_rotary_factor", defaults.partial ?? 1, PART),
  };
  const types = LAYER_TYPES.filter((type) => settings !== undefined && type in settings.config);
  if (!settings || types.length === 0) {
    const original = c.numberIfAny("original_max_position_embeddings", LENGTH);
    return rotaryOf({ all: { settings, ...top, original } }, defaults);
  }
  // A kind whose settings are null is not turned.
  const nested = types.flatMap((type): [string, TableSettings][] => {
    const own = settings.object(type);
    return own ? [[type, { settings: own, ...top, nested: true }]] : [];
  });
  return rotaryOf(Object.fromEntries(nested), defaults);
}

/**
 * The same for models whose kinds of layers have tables of their own wherever config.json says it:
 * nested in `rope_parameters`, or with a `rope_scaling` and a `rope_theta` that are those of full
 * layers.
 *
 * @param sliding.key Where the base of sliding layers is, in older files.
 */
export function readRotaryByType(
  c: ConfigReader,
  { theta, sliding, ...defaults }: RotaryDefaults & {
    readonly theta: number;
    readonly sliding: { readonly theta: number; readonly key?: string };
  },
): Rotary {
  const nested = c.object("rope_parameters");
  const partial = c.number("partial_rotary_factor", defaults.partial ?? 1, PART);
  const full = nested?.object("full_attention") ?? c.object("rope_scaling");
  return rotaryOf({
    full_attention: {
      settings: full,
      theta: c.number("rope_theta", theta, THETA),
      partial,
      nested: true,
    },
    sliding_attention: {
      settings: nested?.object("sliding_attention"),
      theta: sliding.key === undefined
        ? sliding.theta
        : c.number(sliding.key, sliding.theta, THETA),
      partial,
      nested: true,
    },
  }, defaults);
}

const LAYER_TYPES: readonly LayerType[] = ["full_attention", "sliding_attention"];

function settingsOf(c: ConfigReader): ConfigReader | undefined {
  const scaling = c.object("rope_scaling");
  const named = scaling && Object.keys(scaling.config).length > 0 ? scaling : undefined;
  return named ?? c.object("rope_parameters");
}

/** Settings of one table, and what stands in for what they lack. */
interface TableSettings {
  readonly settings: ConfigReader | undefined;
  readonly theta: number;
  readonly partial: number;
  /** `original_max_position_embeddings` of the top level, which wins over that of the settings. */
  readonly original?: number | undefined;
  /** They are those of a kind of layer, for which transformers does not look for `truncate`. */
  readonly nested?: boolean;
}

function rotaryOf(
  given: Readonly<Record<string, TableSettings>>,
  { headDim, maxPositions, aliases = {} }: RotaryDefaults,
): Rotary {
  const tables: Record<string, RotaryTables> = {};
  const dims: Record<string, number> = {};
  for (const [name, table] of Object.entries(given)) {
    const partial = table.settings?.number("partial_rotary_factor", table.partial, PART) ??
      table.partial;
    const turned = Math.floor(headDim * partial);
    if (turned % 2 !== 0) {
      refuseSizes(`${turned} values of each head are turned, and they are turned in pairs`);
    }
    if (turned === 0) continue;
    const frequencies = frequenciesOf(table, { dims: turned, maxPositions, aliases });
    dims[name] = turned;
    tables[name] = (length) => tablesOf(frequencies, length);
  }
  return {
    tables,
    rotation(type) {
      const name = type !== undefined && type in tables ? type : "all";
      return name in tables ? { table: name, dims: dims[name]! } : undefined;
    },
  };
}

/**
 * Cosines and sines of positions 0 … length − 1, times the attention factor: float32[length,
 * dims/2] each, row-major.
 */
function tablesOf({ at, attentionFactor }: Frequencies, length: number): ReturnType<RotaryTables> {
  const frequencies = at(length);
  const half = frequencies.length;
  const cos = new Float32Array(length * half);
  const sin = new Float32Array(length * half);
  for (let position = 0; position < length; position++) {
    for (let i = 0; i < half; i++) {
      const angle = f(position * frequencies[i]!);
      cos[position * half + i] = f(Math.cos(angle)) * attentionFactor;
      sin[position * half + i] = f(Math.sin(angle)) * attentionFactor;
    }
  }
  return { cos, sin };
}

/** What the frequencies of a table depend on beside its settings. */
interface Surroundings {
  readonly dims: number;
  readonly maxPositions: number;
  readonly aliases: Readonly<Record<string, string>>;
}

function frequenciesOf(
  { settings, theta: topTheta, original: topOriginal, nested = false }: TableSettings,
  { dims, maxPositions, aliases }: Surroundings,
): Frequencies {
  const theta = settings?.number("rope_theta", topTheta, THETA) ?? topTheta;
  const plain = wavelengths(theta, dims).map((wavelength) => 1 / wavelength);
  const always = (frequencies: Float32Array<ArrayBuffer>, attentionFactor = 1): Frequencies => ({
    at: () => frequencies,
    attentionFactor,
  });
  if (!settings) return always(plain);
  const named = settings.text("rope_type", settings.text("type", "default"));
  const original = topOriginal ??
    settings.number("original_max_position_embeddings", maxPositions, LENGTH);
  const stretched = () => settings.number("factor", maxPositions / original, FACTOR);
  switch (aliases[named] ?? named) {
    case "default":
    case "mrope": // Text alone has equal positions in all its sections.
      return always(plain);
    case "linear": {
      const factor = settings.number("factor", undefined, FACTOR);
      return always(plain.map((frequency) => frequency / factor));
    }
    case "dynamic":
      return dynamicFrequencies(settings.number("factor", undefined, FACTOR), {
        theta,
        dims,
        maxPositions,
      });
    case "llama3":
      return always(llama3Frequencies(plain, settings, original));
    case "yarn":
      return always(
        yarnFrequencies(settings, { theta, dims, original, factor: stretched(), nested }),
        yarnAttentionFactor(settings, stretched()),
      );
    case "longrope":
      return longFrequencies(settings, { theta, dims, original, factor: stretched() });
  }
  const key = settings.config.rope_type === undefined ? "type" : "rope_type";
  return settings.refuse(key, "default, linear, dynamic, llama3, yarn or longrope");
}

/** θ^(2i/d) for i = 0 … d/2 − 1: positions per radian. */
function wavelengths(theta: number, dims: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: dims / 2 }, (_, i) => theta ** f(2 * i / dims));
}

/** Dynamic NTK: as the model was trained, up to its longest text; beyond it, with a larger base. */
function dynamicFrequencies(
  factor: number,
  { theta, dims, maxPositions }: { theta: number; dims: number; maxPositions: number },
): Frequencies {
  const base = (length: number) => {
    const stretch = factor * Math.max(length, maxPositions) / maxPositions - (factor - 1);
    return theta * stretch ** (dims / (dims - 2));
  };
  return {
    at: (length) => wavelengths(base(length), dims).map((wavelength) => 1 / wavelength),
    attentionFactor: 1,
  };
}

/** Llama 3.1: long waves divided by `factor`, short ones kept, a smooth passage between. */
function llama3Frequencies(
  plain: Float32Array<ArrayBuffer>,
  settings: ConfigReader,
  original: number,
): Float32Array<ArrayBuffer> {
  const factor = settings.number("factor", undefined, FACTOR);
  const low = settings.number("low_freq_factor", undefined, { min: 1e-6, max: 1e6 });
  const high = settings.number("high_freq_factor", undefined, { min: low, max: 1e6 });
  return plain.map((frequency) => {
    const wavelength = f(f(2 * Math.PI) * f(1 / frequency));
    if (wavelength > original / low) return frequency / factor;
    if (wavelength < original / high) return frequency;
    if (high === low) return frequency;
    const smooth = f(f(f(original * f(1 / wavelength)) - low) / (high - low));
    return f(f(f(1 - smooth) * frequency) / factor) + f(smooth * frequency);
  });
}

/** YaRN, section 3.2 ("NTK-by-parts"): a ramp between interpolated and plain frequencies. */
function yarnFrequencies(
  settings: ConfigReader,
  { theta, dims, original, factor, nested }: {
    theta: number;
    dims: number;
    original: number;
    factor: number;
    nested: boolean;
  },
): Float32Array<ArrayBuffer> {
  const turns = { min: 1e-6, max: 1e6 };
  const fast = settings.number("beta_fast", 32, turns);
  const slow = settings.number("beta_slow", 1, turns);
  /** The dimension that turns `rotations` times within the original length. */
  const dimension = (rotations: number) =>
    dims * Math.log(original / (rotations * 2 * Math.PI)) / (2 * Math.log(theta));
  const whole = nested || settings.flag("truncate", true);
  const low = Math.max(whole ? Math.floor(dimension(fast)) : dimension(fast), 0);
  const end = Math.min(whole ? Math.ceil(dimension(slow)) : dimension(slow), dims - 1);
  const high = end === low ? low + 0.001 : end;
  return wavelengths(theta, dims).map((wavelength, i) => {
    const ramp = Math.min(Math.max(f(f(i - f(low)) / f(high - low)), 0), 1);
    const keep = f(1 - ramp);
    return f(f(1 / f(factor * wavelength)) * f(1 - keep)) + f(f(1 / wavelength) * keep);
  });
}

/** YaRN, section 3.4: 0.1 ln(s) + 1, or the ratio of two such values, or what the config says. */
function yarnAttentionFactor(settings: ConfigReader, factor: number): number {
  const range = { min: 0, max: 1e3 };
  const scale = (weight: number) => factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1;
  const mscale = settings.number("mscale", 0, range);
  const mscaleAll = settings.number("mscale_all_dim", 0, range);
  const fallback = mscale && mscaleAll ? scale(mscale) / scale(mscaleAll) : scale(1);
  return settings.number("attention_factor", fallback, range);
}

/**
 * LongRoPE: each frequency divided by a factor of its own, which is another one for windows longer
 * than the original length.
 */
function longFrequencies(
  settings: ConfigReader,
  { theta, dims, original, factor }: {
    theta: number;
    dims: number;
    original: number;
    factor: number;
  },
): Frequencies {
  const range = { min: 1e-6, max: 1e6 };
  const short = settings.numbers("short_factor", dims / 2, range);
  const long = settings.numbers("long_factor", dims / 2, range);
  const fallback = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original));
  return {
    at(length) {
      const stretch = length > original ? long : short;
      return wavelengths(theta, dims).map((wavelength, i) => 1 / f(f(stretch[i]!) * wavelength));
    },
    attentionFactor: settings.number("attention_factor", fallback, { min: 0, max: 1e3 }),
  };
}
