/**
 * Rotary position embeddings (RoFormer, arXiv 2104.09864) and the ways models stretch them: linear, llama3, YaRN
 * (arXiv 2309.00071). Refused by name: dynamic, longrope, mrope and everything else.
 *
 * Every step is rounded to f32 in the order transformers takes it (`modeling_rope_utils.py`, 5.23): an angle is a position in the
 * thousands times a frequency, so a last-bit difference in a frequency would show in the logits.
 */
import { UnsupportedError } from "../errors.ts";
import { type Config, readBoolean, readNumber, readObject, readString } from "./config.ts";

/** How a model rotates its queries and keys. */
export interface Rotary {
  /** Half of the head dimension: the number of frequencies. */
  readonly halfDim: number;
  /** Radians per position, float32[halfDim]. */
  readonly frequencies: Float32Array<ArrayBuffer>;
  /** Cosines and sines are multiplied by this (YaRN's attention temperature; 1 elsewhere). */
  readonly attentionFactor: number;
}

const f = Math.fround;

/**
 * Read the rotary settings: `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5), with `rope_theta` inside it or at
 * the top level, and the kind under `rope_type` or `type`.
 *
 * @throws {UnsupportedError} a kind this file does not compute, or rotation of a part of each head only.
 * @throws {CheckpointError} a value is missing or out of range.
 */
export function readRotary(
  config: Config,
  { headDim, maxPositions }: { readonly headDim: number; readonly maxPositions: number },
): Rotary {
  const scaling = readObject(config, "rope_scaling");
  const settings: Config = (scaling && Object.keys(scaling).length > 0 ? scaling : undefined) ??
    readObject(config, "rope_parameters") ?? {};
  const layered = Object.keys(settings).find((key) =>
    typeof settings[key] === "object" && settings[key]
  );
  if (layered !== undefined) {
    throw new UnsupportedError(
      `Cannot evaluate this model: config.json gives rotary settings of their own to "${layered}", expected one set for all layers.`,
      { what: "rope_parameters", reason: "all layers must share one rotary embedding" },
    );
  }
  const kind = readString(settings, "rope_type", readString(settings, "type", "default"));
  const thetaRule = { min: 2, max: 1e12 };
  const theta = readNumber(settings, "rope_theta", {
    ...thetaRule,
    fallback: readNumber(config, "rope_theta", { ...thetaRule, fallback: 10000 }),
  });
  const partRule = { min: 0, max: 1 };
  const part = readNumber(settings, "partial_rotary_factor", {
    ...partRule,
    fallback: readNumber(config, "partial_rotary_factor", { ...partRule, fallback: 1 }),
  });
  if (part !== 1) {
    throw new UnsupportedError(
      `Cannot evaluate this model: config.json rotates only ${part} of each head (partial_rotary_factor), expected 1.`,
      { what: "partial_rotary_factor", reason: "only whole heads are rotated" },
    );
  }
  const plain = plainFrequencies(theta, headDim);
  const rotary = (frequencies: Float32Array<ArrayBuffer>, attentionFactor = 1): Rotary => ({
    halfDim: headDim / 2,
    frequencies,
    attentionFactor,
  });
  switch (kind) {
    case "default":
      return rotary(plain);
    case "linear": {
      const factor = readFactor(settings);
      return rotary(plain.map((frequency) => frequency / factor));
    }
    case "llama3":
      return rotary(
        llama3Frequencies(plain, settings, originalLength(config, settings, maxPositions)),
      );
    case "yarn": {
      const original = originalLength(config, settings, maxPositions);
      return rotary(
        yarnFrequencies(settings, { theta, headDim, original }),
        yarnAttentionFactor(settings),
      );
    }
    default:
      throw new UnsupportedError(
        `Cannot evaluate this model: config.json asks for rotary embeddings of type ${
          JSON.stringify(kind)
        }, expected default, linear, llama3 or yarn. It can still be quantized without evaluation.`,
        { what: `rope_type ${kind}`, reason: "its frequencies are not computed here" },
      );
  }
}

/** Cosines and sines of positions 0 … length − 1, times the attention factor: float32[length, halfDim] each, row-major. */
export function rotaryTables(
  { halfDim, frequencies, attentionFactor }: Rotary,
  length: number,
): { readonly halfDim: number; cos: Float32Array<ArrayBuffer>; sin: Float32Array<ArrayBuffer> } {
  const cos = new Float32Array(length * halfDim);
  const sin = new Float32Array(length * halfDim);
  for (let position = 0; position < length; position++) {
    for (let i = 0; i < halfDim; i++) {
      const angle = f(position * frequencies[i]!);
      cos[position * halfDim + i] = f(Math.cos(angle)) * attentionFactor;
      sin[position * halfDim + i] = f(Math.sin(angle)) * attentionFactor;
    }
  }
  return { halfDim, cos, sin };
}

/** θ^(2i/d) for i = 0 … d/2 − 1: positions per radian. */
function wavelengths(theta: number, headDim: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: headDim / 2 }, (_, i) => theta ** f(2 * i / headDim));
}

/** 1/θ^(2i/d): RoFormer, equation 15. */
function plainFrequencies(theta: number, headDim: number): Float32Array<ArrayBuffer> {
  return wavelengths(theta, headDim).map((wavelength) => 1 / wavelength);
}

function readFactor(settings: Config): number {
  return readNumber(settings, "factor", { min: 1, max: 1e6 });
}

/** Longest text the model saw before it was stretched. A value at the top level of config.json wins, as in transformers. */
function originalLength(config: Config, settings: Config, maxPositions: number): number {
  const key = "original_max_position_embeddings";
  const rule = { min: 1, max: 2 ** 30 };
  const inner = readNumber(settings, key, { ...rule, fallback: maxPositions });
  return readNumber(config, key, { ...rule, fallback: inner });
}

/** Llama 3.1: long waves divided by `factor`, short ones kept, a smooth passage between. */
function llama3Frequencies(
  plain: Float32Array<ArrayBuffer>,
  settings: Config,
  original: number,
): Float32Array<ArrayBuffer> {
  const factor = readFactor(settings);
  const low = readNumber(settings, "low_freq_factor", { min: 1e-6, max: 1e6 });
  const high = readNumber(settings, "high_freq_factor", { min: low, max: 1e6 });
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
  settings: Config,
  { theta, headDim, original }: { theta: number; headDim: number; original: number },
): Float32Array<ArrayBuffer> {
  const factor = readFactor(settings);
  const turns = { min: 1e-6, max: 1e6 };
  const fast = readNumber(settings, "beta_fast", { ...turns, fallback: 32 });
  const slow = readNumber(settings, "beta_slow", { ...turns, fallback: 1 });
  /** The dimension that turns `rotations` times within the original length. */
  const dimension = (rotations: number) =>
    headDim * Math.log(original / (rotations * 2 * Math.PI)) / (2 * Math.log(theta));
  const whole = readBoolean(settings, "truncate", true);
  const low = Math.max(whole ? Math.floor(dimension(fast)) : dimension(fast), 0);
  const end = Math.min(whole ? Math.ceil(dimension(slow)) : dimension(slow), headDim - 1);
  const high = end === low ? low + 0.001 : end;
  return wavelengths(theta, headDim).map((wavelength, i) => {
    const ramp = Math.min(Math.max(f(f(i - f(low)) / f(high - low)), 0), 1);
    const keep = f(1 - ramp);
    return f(f(1 / f(factor * wavelength)) * f(1 - keep)) + f(f(1 / wavelength) * keep);
  });
}

/** YaRN, section 3.4: 0.1 ln(s) + 1, or the ratio of two such values, or what the config says. */
function yarnAttentionFactor(settings: Config): number {
  const factor = readFactor(settings);
  const rule = { min: 0, max: 1e3 };
  const scale = (weight: number) => factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1;
  const mscale = readNumber(settings, "mscale", { ...rule, fallback: 0 });
  const mscaleAll = readNumber(settings, "mscale_all_dim", { ...rule, fallback: 0 });
  const fallback = mscale && mscaleAll ? scale(mscale) / scale(mscaleAll) : scale(1);
  return readNumber(settings, "attention_factor", { ...rule, fallback });
}
