/**
 * The options of a scheme, as rows that make flags, help and recipe keys; and the scheme that a
 * name and options mean.
 */
import { RequestError } from "../errors.ts";
import type { Option, OptionValue, OptionValues } from "../option.ts";
import type { Scheme, Strategy } from "../scheme.ts";
import { PERCENTILE, RANGE_FINDERS, USUAL_FINDER } from "./inputs.ts";
import {
  type Named,
  type PresetOptions,
  PRESETS,
  presetScheme,
  USUAL_TABLE_ROWS,
} from "./presets.ts";

/** One option, the preset option it becomes, and how. */
interface SchemeOption extends Option {
  readonly becomes: Named;
  convert(value: OptionValue): NonNullable<PresetOptions[Named]>;
}

const ACTIVATIONS = ["dynamic", "static", "int8", "fp8"] as const;

const ROWS: readonly SchemeOption[] = [
  {
    name: "group-size",
    type: "integer",
    placeholder: "n",
    min: -1,
    help: "weights along a row that share a scale; -1: the whole row, 0: the whole tensor",
    becomes: "strategy",
    convert: (value): Strategy => {
      if (value === 0) return { kind: "tensor" };
      return value === -1 ? { kind: "channel" } : { kind: "group", size: Number(value) };
    },
  },
  {
    name: "block-structure",
    type: "string",
    placeholder: "RxC",
    help:
      "weights of R rows by C columns share a scale: 64x64; 0: all of them, so that 0x1 is a scale per column",
    becomes: "strategy",
    convert: (value): Strategy => {
      const match = /^(0|[1-9]\d*)x(0|[1-9]\d*)$/.exec(String(value));
      if (!match) {
        throw new RequestError(
          `Cannot use \`block-structure\` "${value}": it must be rows x columns, as 64x64 or 0x1.`,
        );
      }
      return { kind: "block", rows: Number(match[1]), columns: Number(match[2]) };
    },
  },
  {
    name: "restricted",
    type: "boolean",
    help: "symmetric int without its lowest code: scale = absmax/(2^(b-1) - 1), nothing is clipped",
    becomes: "restricted",
    convert: Boolean,
  },
  {
    name: "block-size",
    type: "integer",
    placeholder: "n",
    min: 32,
    max: 4096,
    help: "weights of the flattened tensor that share an absmax (NF4, FP4; default 64)",
    becomes: "block",
    convert: Number,
  },
  {
    name: "table-rows",
    type: "integer",
    placeholder: "n",
    min: 0,
    help:
      `rows of a weight that share a table of levels (CB4, CB3, CB2; default ${USUAL_TABLE_ROWS}); 0: all of them`,
    becomes: "tableRows",
    convert: Number,
  },
  {
    name: "double-quant",
    type: "boolean",
    help: "store each absmax in 8 bits (NF4, FP4; default true)",
    becomes: "doubleQuant",
    convert: Boolean,
  },
  {
    name: "threshold",
    type: "number",
    placeholder: "x",
    min: 0,
    help: "magnitude from which an activation stays in float (LLM_INT8; default 6)",
    becomes: "threshold",
    convert: Number,
  },
  {
    name: "activations",
    type: "string",
    choices: ACTIVATIONS,
    help:
      "activations rounded by a scale of each token (dynamic, the default), or by one per layer that calibration fixes (static), with W8A8 and FP8_DYNAMIC; " +
      "int8, fp8: to that, token by token, with any weights; what no loader runs can be measured (--format none)",
    becomes: "activations",
    convert: (value) => ACTIVATIONS.find((name) => name === value)!,
  },
  {
    name: "observer",
    type: "string",
    placeholder: "name",
    choices: RANGE_FINDERS,
    help:
      "static activations: the range that a scale covers, of all values (min-max), one that follows the windows' (moving-average), " +
      `that of least squared error (mse) or of most values (percentile); default ${USUAL_FINDER}`,
    becomes: "observer",
    convert: String,
  },
  {
    name: "percentile",
    type: "number",
    placeholder: "p",
    min: 50,
    max: 100,
    help:
      `observer percentile: per cent of the values that the range holds (default ${PERCENTILE})`,
    becomes: "percentile",
    convert: Number,
  },
];

/** Options that say more of a scheme than its name. */
export const SCHEME_OPTIONS: readonly Option[] = ROWS;

/** Every scheme's name. */
export function schemeNames(): string[] {
  return PRESETS.map(({ name }) => name);
}

/**
 * The scheme that a name and options mean for weights of a dtype, in a format that may ask for
 * another dtype of scales.
 *
 * @throws {RequestError} the scheme does not take one of the options, or two say the same thing.
 */
export function schemeFrom(
  name: string,
  options: OptionValues,
  dtypes: Pick<PresetOptions, "modelDType" | "scaleDType">,
): Scheme {
  const preset = PRESETS.find((candidate) => candidate.name === name);
  const values: { -readonly [K in Named]?: PresetOptions[K] } = {};
  const takes = ROWS.filter((row) => preset?.takes.includes(row.becomes));
  let strategyFrom: string | undefined;
  for (const row of ROWS) {
    const value = options[row.name];
    if (value === undefined) continue;
    if (preset && !takes.includes(row)) {
      const taken = takes.map((row) => `\`${row.name}\``).join(", ") || "no options";
      throw new RequestError(`Cannot use \`${row.name}\` with ${name}: it takes ${taken}.`);
    }
    if (row.becomes === "strategy") {
      if (strategyFrom) {
        throw new RequestError(
          `Cannot use \`${strategyFrom}\` and \`${row.name}\` together: both say which weights share a scale.`,
        );
      }
      strategyFrom = row.name;
    }
    Object.assign(values, { [row.becomes]: row.convert(value) });
  }
  checkRangeOptions(name, values);
  return presetScheme(name, { ...values, ...dtypes }).scheme;
}

/** Ranges are found only for scales that are fixed, and percentiles are of one way to find them. */
function checkRangeOptions(
  name: string,
  { activations, observer, percentile }: Pick<
    PresetOptions,
    "activations" | "observer" | "percentile"
  >,
): void {
  const said = observer === undefined ? "percentile" : "observer";
  if (activations !== "static" && (observer ?? percentile) !== undefined) {
    throw new RequestError(
      `Cannot use \`${said}\` with ${name} and dynamic activations: every token has a scale of its own; add \`activations\` static.`,
    );
  }
  if (percentile !== undefined && observer !== "percentile") {
    throw new RequestError(
      `Cannot use \`percentile\` with the observer ${
        observer ?? USUAL_FINDER
      }: add \`observer\` percentile.`,
    );
  }
}
