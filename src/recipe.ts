/**
 * What is asked: ordered rules from name patterns to a scheme and a method, what to leave alone,
 * the format. A recipe comes of a file (recipe_file.ts), or of a command line, whose flags make one
 * of one rule. Nothing here looks at a checkpoint.
 */
import defer * as picomatch from "picomatch";
import { RequestError } from "./errors.ts";
import { chainNamed, METHODS } from "./methods/mod.ts";
import { type Option, type OptionValue, type OptionValues, parseOption } from "./option.ts";
import { SCHEME_OPTIONS, schemeNames } from "./schemes/options.ts";

/** One rule. */
export interface Rule {
  /**
   * `re:` and a regular expression that matches from the start of the name (as Python's `re.match`,
   * the rule of compressed-tensors), or a glob; tried on the tensor's name and on its module path
   * (without `.weight`). Absent: every linear weight that is quantized by default.
   */
  readonly match?: string;
  /** A scheme's name (`W4A16`, `NF4`, …) or `none`. */
  readonly scheme: string;
  /** Methods joined by `+`, of which the last chooses codes, or `auto`. */
  readonly method: string;
  /**
   * Values of {@linkcode RULE_OPTIONS}, by option name; defaults filled in where an option has one.
   */
  readonly options: OptionValues;
}

/** What is asked of a run. */
export interface Recipe {
  /** The first that matches a tensor decides. */
  readonly rules: readonly Rule[];
  /** Patterns of tensors that are copied whatever the rules say. */
  readonly ignore: readonly string[];
  /** A format's name; absent: the one that suits the scheme. */
  readonly format?: string;
  /** Bytes of the largest output shard, header not counted. */
  readonly maxShardSize: number;
  /**
   * Whose hidden states calibration sees: those that the quantized blocks before give, or the
   * original's.
   */
  readonly calibrateOn: "quantized" | "float";
  /** Whether each linear's target is moved so that it repairs errors of the blocks before it. */
  readonly propagate: boolean;
  /** Parts of calibration's windows whose sums are made apart, by as many workers at most. */
  readonly calibrationShards: number;
  /**
   * The share of activations that are no outliers, which makes the threshold of LLM_INT8
   * (`outlierThreshold`); absent: the rules say it.
   */
  readonly outlierQuantile?: number;
}

/** Whether a rule's scheme has a threshold of outliers. */
export function usesOutliers({ scheme }: Rule): boolean {
  return scheme === "LLM_INT8";
}

/** The scheme of a rule. */
const SCHEME: Option = {
  name: "scheme",
  type: "string",
  placeholder: "name",
  help: "what weights (and activations) become: W4A16, W8A8, NF4, …; none leaves them alone",
  default: "W4A16",
};
/** The method of a rule. */
export const METHOD: Option = {
  name: "method",
  type: "string",
  placeholder: "name",
  help:
    `how codes are chosen: ${
      METHODS.map(({ name }) => name).join(", ")
    }, or several, as awq+gptq; ` +
    "auto takes awq+gptq for int weights of 6 bits and below in models that Sluice can run, rtn for others",
  default: "auto",
};

/** Options of one rule: its scheme, its method, and what those take. */
export const RULE_OPTIONS: readonly Option[] = [
  SCHEME,
  METHOD,
  ...SCHEME_OPTIONS,
  // Methods share some.
  ...new Set(METHODS.flatMap(({ options }) => options)),
];

/** Options of a recipe that are not of a rule. */
export const RECIPE_OPTIONS: readonly Option[] = [
  {
    name: "format",
    type: "string",
    placeholder: "name",
    help: "how codes are stored; chosen to suit the scheme when absent; none: nothing is stored, " +
      "what would come of it is measured",
    choices: ["compressed-tensors", "bitsandbytes", "plain", "codebook", "gptq", "awq", "none"],
  },
  {
    name: "max-shard-size",
    type: "bytes",
    placeholder: "size",
    help: "largest output file",
    default: "5GB",
    min: 1,
  },
  {
    name: "calibrate-on",
    type: "string",
    choices: ["quantized", "float"],
    help:
      "whose hidden states calibration sees: those that the quantized blocks before give, or the original model's",
    default: "quantized",
  },
  {
    name: "propagate",
    type: "boolean",
    help:
      "move each linear's target so that it repairs errors of the blocks before it (default true; calibration on float cannot)",
  },
  {
    name: "calibration-shards",
    type: "integer",
    placeholder: "n",
    min: 1,
    default: 1,
    help:
      "parts of the calibration's windows whose sums are made apart and then added, so that as " +
      "many workers may share a plan; the last bits of the sums depend on it",
  },
  {
    name: "outlier-quantile",
    type: "number",
    placeholder: "q",
    min: 0.5,
    max: 1,
    help:
      "LLM_INT8: take for `threshold` the magnitude below which this share of the original model's activations lies (0.999), by a calibration text",
  },
];

/** The rule that values by option name make. */
export function ruleFrom(values: ReadonlyMap<string, OptionValue>, match?: string): Rule {
  const scheme = String(values.get(SCHEME.name) ?? SCHEME.default);
  if (scheme.toLowerCase() !== "none" && !schemeNames().includes(scheme.toUpperCase())) {
    throw new RequestError(
      `Cannot use scheme "${scheme}": it must be none, or one of ${schemeNames().join(", ")}.`,
    );
  }
  const method = String(values.get(METHOD.name) ?? METHOD.default).toLowerCase();
  const options: Record<string, OptionValue> = {};
  for (const option of RULE_OPTIONS) {
    if (option === SCHEME || option === METHOD) continue;
    const value = values.get(option.name);
    if (value !== undefined) options[option.name] = value;
  }
  return {
    ...(match === undefined ? {} : { match }),
    scheme: scheme.toLowerCase() === "none" ? "none" : scheme.toUpperCase(),
    method: method === "auto" ? method : chainNamed(method).name,
    options,
  };
}

/**
 * A recipe of one rule, from flags: values by option name, `ignore` apart.
 *
 * @throws {RequestError} a value is not of its option's type, range or choices.
 */
export function recipeFromOptions(
  given: Readonly<Record<string, unknown>>,
  ignore: readonly string[] = [],
): Recipe {
  const values = new Map<string, OptionValue>();
  for (const option of [...RULE_OPTIONS, ...RECIPE_OPTIONS]) {
    const value = given[option.name];
    if (value !== undefined) values.set(option.name, parseOption(option, value));
  }
  ignore.forEach(compile);
  return assemble([ruleFrom(values)], ignore, values);
}

/** A recipe of its rules, patterns, and values by option name. */
export function assemble(
  rules: readonly Rule[],
  ignore: readonly string[],
  values: ReadonlyMap<string, OptionValue>,
): Recipe {
  const format = values.get("format");
  const valueOf = (name: string) => {
    const option = RECIPE_OPTIONS.find((option) => option.name === name)!;
    return values.get(name) ?? parseOption(option, option.default);
  };
  const calibrateOn = valueOf("calibrate-on") as Recipe["calibrateOn"];
  const propagate = values.get("propagate") ?? calibrateOn === "quantized";
  if (propagate && calibrateOn === "float") {
    throw new RequestError(
      "Cannot use `propagate` with `calibrate-on` float: the original model's hidden states have no errors to repair.",
    );
  }
  const quantile = values.get("outlier-quantile");
  if (quantile !== undefined) checkOutliers(rules);
  return {
    rules,
    ignore,
    ...(format === undefined ? {} : { format: String(format) }),
    maxShardSize: Number(valueOf("max-shard-size")),
    calibrateOn,
    propagate: propagate === true,
    calibrationShards: Number(valueOf("calibration-shards")),
    ...(quantile === undefined ? {} : { outlierQuantile: Number(quantile) }),
  };
}

/** @throws {RequestError} no rule has a use for a threshold from data, or one says its own. */
function checkOutliers(rules: readonly Rule[]): void {
  const concerned = rules.filter(usesOutliers);
  if (concerned.length === 0) {
    throw new RequestError(
      "Cannot use `outlier-quantile`: it makes the threshold of LLM_INT8, and no weight becomes that.",
    );
  }
  if (concerned.some(({ options }) => options.threshold !== undefined)) {
    throw new RequestError(
      "Cannot use `threshold` and `outlier-quantile` together: both say from what magnitude an activation stays in float.",
    );
  }
}

/**
 * A recipe as the object of a recipe file, from which `parseRecipe` makes an equal one. A
 * threshold that was found for `outlier_quantile` stands in its place.
 */
export function recipeDocument(recipe: Recipe): Record<string, unknown> {
  const { rules, ignore, format, maxShardSize, calibrateOn, propagate, outlierQuantile } = recipe;
  const { calibrationShards: shards } = recipe;
  const valuesOf = ({ match, scheme, method, options }: Rule) => ({
    ...(match === undefined ? {} : { match }),
    scheme,
    method,
    ...Object.fromEntries(
      Object.entries(options).map(([name, value]) => [name.replaceAll("-", "_"), value]),
    ),
  });
  const found = rules.some((rule) => usesOutliers(rule) && rule.options.threshold !== undefined);
  // Of what comes after a rule for all weights, none is left.
  const all = rules.findIndex(({ match }) => match === undefined);
  const matched = all < 0 ? rules : rules.slice(0, all);
  return {
    version: 1,
    ...(all < 0 ? {} : valuesOf(rules[all]!)),
    ...(format === undefined ? {} : { format }),
    max_shard_size: maxShardSize,
    calibrate_on: calibrateOn,
    propagate,
    ...(shards === 1 ? {} : { calibration_shards: shards }),
    ...(outlierQuantile === undefined || found ? {} : { outlier_quantile: outlierQuantile }),
    ignore,
    rules: matched.map(valuesOf),
  };
}

const compiled = new Map<string, (name: string) => boolean>();

/**
 * What tells whether a pattern names a name.
 *
 * @throws {RequestError} it is no pattern.
 */
export function compile(pattern: string): (name: string) => boolean {
  let test = compiled.get(pattern);
  if (!test) {
    if (pattern.startsWith("re:")) {
      let expression: RegExp;
      try {
        expression = new RegExp(`^(?:${pattern.slice(3)})`);
      } catch (cause) {
        throw new RequestError(
          `Cannot use the pattern "${pattern}": ${(cause as Error).message}.`,
          { cause },
        );
      }
      test = (name) => expression.test(name);
    } else {
      const glob: (name: string) => boolean = picomatch.default(pattern, { dot: true });
      test = glob;
    }
    compiled.set(pattern, test);
  }
  return test;
}

/** A tensor's module path: its name without the trailing `.weight`. */
export function modulePath(tensor: string): string {
  return tensor.endsWith(".weight") ? tensor.slice(0, -".weight".length) : tensor;
}

/** Whether a pattern (see {@linkcode Rule}) names this tensor. */
export function matches(pattern: string, tensor: string): boolean {
  const test = compile(pattern);
  return test(tensor) || test(modulePath(tensor));
}
