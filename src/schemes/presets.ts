/**
 * The names users know (llm-compressor's and bitsandbytes') and the schemes they stand for. Refuses
 * options a name does not take.
 */
import { RequestError } from "../errors.ts";
import type {
  Activations,
  IntScheme,
  LearnedCodebookScheme,
  ScaleDType,
  Scheme,
  Strategy,
} from "../scheme.ts";
import type { DType } from "../tensor.ts";

/** What may be said beside a preset's name. */
export interface PresetOptions {
  /** The dtype of the model's weights. */
  readonly modelDType: DType;
  /** The dtype scales are stored in, where a format asks for one; absent: the model's. */
  readonly scaleDType?: ScaleDType | undefined;
  /** Weights along a row that share a scale; −1: the whole row. */
  readonly groupSize?: number;
  /** Any layout of scales, instead of `groupSize`. */
  readonly strategy?: Strategy;
  /** Leave out the code −2^(b−1), so that the greatest weight is not clipped. */
  readonly restricted?: boolean;
  /** Weights of the flattened tensor that share an absmax (NF4, FP4). */
  readonly block?: number;
  /** Rows that share a table of levels; 0: all of them (CB2 to CB4). */
  readonly tableRows?: number;
  /** Store absmax values as 8-bit codes (NF4, FP4). */
  readonly doubleQuant?: boolean;
  /** Magnitude from which an activation is an outlier (LLM_INT8). */
  readonly threshold?: number;
  /**
   * What becomes of activations: int8 or fp8, by a scale of each token; where the preset says
   * which, also by that of each token (dynamic) or by one that calibration fixes (static).
   */
  readonly activations?: "dynamic" | "static" | "int8" | "fp8";
  /** How the range of a fixed scale is found; no part of the scheme. */
  readonly observer?: string;
  /**
   * Share of the values that the range found by the observer `percentile` holds; no part of the
   * scheme.
   */
  readonly percentile?: number;
}

/** Rows that share a table unless said otherwise, as SqueezeLLM has it. */
export const USUAL_TABLE_ROWS = 1;

/** Options that a user names; the others follow from the model and the format. */
export type Named = Exclude<keyof PresetOptions, "modelDType" | "scaleDType">;

/** A named scheme. */
export interface Preset {
  readonly name: string;
  readonly summary: string;
  /** The format that its results are written in unless another is asked for. */
  readonly format: "compressed-tensors" | "bitsandbytes" | "plain";
  /** The options it takes. */
  readonly takes: readonly Named[];
  scheme(options: PresetOptions): Scheme;
}

/**
 * Scales are stored in the model's dtype unless a format says another; weights of any other dtype
 * get f32 scales.
 */
function scaleDTypeOf({ modelDType, scaleDType }: PresetOptions): ScaleDType {
  return scaleDType ?? (modelDType === "bf16" || modelDType === "f16" ? modelDType : "f32");
}

function strategyOf({ groupSize, strategy }: PresetOptions, usual: Strategy): Strategy {
  if (strategy) return strategy;
  if (groupSize === undefined) return usual;
  return groupSize === -1 ? { kind: "channel" } : { kind: "group", size: groupSize };
}

/** What becomes of activations, of a preset that rounds them to `own` unless told. */
function inputsOf(
  { activations }: PresetOptions,
  own: "int8" | "fp8" | undefined,
): Activations {
  switch (activations) {
    case "static":
      return own ? `${own}-static` : refuseUnsaid(activations);
    case "dynamic":
      return own ?? refuseUnsaid(activations);
    case undefined:
      return own ?? "none";
    default:
      return activations;
  }
}

function refuseUnsaid(how: string): never {
  throw new RequestError(
    `Cannot use activations ${how} with a scheme that leaves them in float: say what they become, ` +
      "int8 or fp8.",
  );
}

/** The same of a scheme whose activations no loader rounds. */
function measuredInputs(options: PresetOptions): { readonly activations?: "int8" | "fp8" } {
  const activations = inputsOf(options, undefined);
  return activations === "int8" || activations === "fp8" ? { activations } : {};
}

function weightOnly(bits: IntScheme["bits"], affine: boolean): Preset {
  const usual: Strategy = bits === 8 ? { kind: "channel" } : { kind: "group", size: 128 };
  const scales = bits === 8 ? "a scale per channel" : "groups of 128";
  return {
    name: `W${bits}A16${affine ? "_ASYM" : ""}`,
    summary: `int${bits} weights, ${affine ? "affine with a zero point" : "symmetric"}, ${scales}`,
    format: "compressed-tensors",
    takes: ["groupSize", "strategy", "activations", ...affine ? [] : ["restricted"] as const],
    scheme: (options) => ({
      kind: "int",
      bits,
      grid: affine ? "affine" : options.restricted ? "restricted" : "full",
      strategy: strategyOf(options, usual),
      scaleDType: scaleDTypeOf(options),
      activations: inputsOf(options, undefined),
    }),
  };
}

/** int4 weights of which a runtime rounds the input too. */
function hybrid(name: string, activations: "int8" | "fp8"): Preset {
  const { scheme } = weightOnly(4, false);
  return {
    name,
    summary: `int4 weights, symmetric, groups of 128; activations ${activations} per token`,
    format: "compressed-tensors",
    takes: ["groupSize", "strategy", "restricted"],
    scheme: (options) => scheme({ ...options, activations }),
  };
}

function codebook(kind: "nf4" | "fp4"): Preset {
  return {
    name: kind.toUpperCase(),
    summary: `${kind === "nf4" ? "4-bit NormalFloat" : "4-bit float"}, blocks of 64, ` +
      "double quantization",
    format: "bitsandbytes",
    takes: ["block", "doubleQuant", "activations"],
    scheme: (options) => {
      const { block = 64, doubleQuant = true } = options;
      return { kind, block, doubleQuant, ...measuredInputs(options) };
    },
  };
}

function learnedCodebook(bits: LearnedCodebookScheme["bits"]): Preset {
  return {
    name: `CB${bits}`,
    summary: `${2 ** bits} levels that are found for the weights, a table per row`,
    format: "plain",
    takes: ["tableRows", "activations"],
    scheme: (options) => ({
      kind: "codebook",
      bits,
      tableRows: options.tableRows ?? USUAL_TABLE_ROWS,
      tableDType: scaleDTypeOf(options),
      ...measuredInputs(options),
    }),
  };
}

/** What presets take whose activations are rounded. */
const WITH_ACTIVATIONS = ["strategy", "activations", "observer", "percentile"] as const;

const BIT_WIDTHS = [4, 8, 2, 3, 5, 6, 7] as const;

/** Every preset, in the order `--help` shows them. */
export const PRESETS: readonly Preset[] = [
  ...BIT_WIDTHS.flatMap((bits) => [weightOnly(bits, false), weightOnly(bits, true)]),
  {
    name: "W8A8",
    summary: "int8 weights, a scale per channel; activations int8 per token",
    format: "compressed-tensors",
    takes: WITH_ACTIVATIONS,
    scheme: (options) => ({
      kind: "int",
      bits: 8,
      grid: "full",
      strategy: strategyOf(options, { kind: "channel" }),
      scaleDType: scaleDTypeOf(options),
      activations: inputsOf(options, "int8"),
    }),
  },
  hybrid("W4A8", "int8"),
  hybrid("W4AFP8", "fp8"),
  {
    name: "FP8_DYNAMIC",
    summary: "fp8 E4M3 weights, a scale per channel; activations fp8 per token",
    format: "compressed-tensors",
    takes: WITH_ACTIVATIONS,
    scheme: (options) => ({
      kind: "fp8",
      strategy: strategyOf(options, { kind: "channel" }),
      scaleDType: scaleDTypeOf(options),
      activations: inputsOf(options, "fp8"),
    }),
  },
  {
    name: "FP8",
    summary: "fp8 E4M3 weights, a scale per channel; activations left in float",
    format: "compressed-tensors",
    takes: ["strategy", "activations"],
    scheme: (options) => ({
      kind: "fp8",
      strategy: strategyOf(options, { kind: "channel" }),
      scaleDType: scaleDTypeOf(options),
      activations: inputsOf(options, undefined),
    }),
  },
  codebook("nf4"),
  codebook("fp4"),
  ...([4, 3, 2] as const).map(learnedCodebook),
  {
    name: "LLM_INT8",
    summary: "int8 weights, an absmax per row; activations int8 but for outliers of 6 and more",
    format: "bitsandbytes",
    takes: ["threshold"],
    scheme: ({ threshold = 6 }) => ({ kind: "llm_int8", threshold }),
  },
  ...(["bf16", "f16", "f32"] as const).map((dtype): Preset => ({
    name: dtype.toUpperCase(),
    summary: `a cast to ${dtype}`,
    format: "plain",
    takes: [],
    scheme: () => ({ kind: "cast", dtype }),
  })),
];

/**
 * The scheme a name stands for, and the format it is written in by default. Case and the difference
 * of `-` and `_` do not matter.
 *
 * @throws {RequestError} no such name, or an option that it does not take.
 */
export function presetScheme(
  name: string,
  options: PresetOptions,
): { readonly scheme: Scheme; readonly format: Preset["format"] } {
  const key = name.toUpperCase().replaceAll("-", "_");
  const preset = PRESETS.find((preset) => preset.name === key);
  if (!preset) {
    throw new RequestError(
      `Cannot use the scheme "${name}": the names are ${
        PRESETS.map(({ name }) => name).join(", ")
      }.`,
    );
  }
  for (const [option, value] of Object.entries(options)) {
    if (value === undefined || option === "modelDType" || option === "scaleDType") continue;
    if (!preset.takes.some((taken) => taken === option)) {
      throw new RequestError(
        `Cannot use ${option} with ${preset.name}: it takes ${
          preset.takes.join(", ") || "no options"
        }.`,
      );
    }
  }
  if (options.groupSize !== undefined && options.strategy !== undefined) {
    throw new RequestError(
      "Cannot use groupSize and strategy together: both say where scales are.",
    );
  }
  return { scheme: preset.scheme(options), format: preset.format };
}
