/**
 * Recipes in files, JSON or YAML: keys read into the values of options, and what is wrong told with
 * the place where it stands.
 */
import defer * as yaml from "yaml";
import { quote, RequestError } from "./errors.ts";
import { checkOutputPath } from "./io/names.ts";
import { type Option, type OptionValue, parseOption, recipeKey } from "./option.ts";
import {
  assemble,
  compile,
  METHOD,
  type Recipe,
  RECIPE_OPTIONS,
  type Rule,
  RULE_OPTIONS,
  ruleFrom,
} from "./recipe.ts";

/** One of several outputs that a recipe asks for. */
export interface NamedRecipe {
  /** The folder it goes to, as it was written, or a name made of its scheme and method. */
  readonly name: string;
  readonly recipe: Recipe;
}

/**
 * Read a recipe from JSON or YAML. Keys are option names with underscores; `rules` is a list of
 * objects with `match` and the same keys; top-level scheme keys make the last rule, for every
 * linear weight that no rule before it matched.
 *
 * @example
 * ```yaml
 * scheme: W4A16
 * group_size: 64
 * ignore: ["re:.*layers\\.0\\."]
 * rules:
 *   - match: "re:.*down_proj"
 *     scheme: W8A16
 * ```
 *
 * @throws {RequestError} the text is no YAML, a key is unknown, a value is wrong, or it asks for
 * several outputs ({@linkcode parseOutputs}).
 */
export function parseRecipe(text: string, file: string): Recipe {
  return recipeFromDocument(readFile(text, `the recipe ${file}`), file);
}

/**
 * A recipe of what a file of one says, or of what {@linkcode recipeDocument} makes.
 *
 * @param file Where it stands, for messages.
 * @throws {RequestError} see {@linkcode parseRecipe}.
 */
export function recipeFromDocument(top: Readonly<Record<string, unknown>>, file: string): Recipe {
  const where = `the recipe ${file}`;
  if (top.outputs !== undefined) {
    throw new RequestError(
      `Cannot use ${where} here: it asks for several outputs ("outputs"), where only one can be ` +
        "made. Give a recipe of one.",
    );
  }
  return recipeOf(top, where);
}

/**
 * Read a recipe that asks for several outputs: what stands beside `outputs` is for all of them, and
 * each may say the same keys otherwise. Its `output` is where it goes; absent, its name is made of
 * its scheme and method.
 *
 * @example
 * ```yaml
 * ignore: ["re:.*layers\\.0\\."]
 * outputs:
 *   - { output: nf4, scheme: NF4 }
 *   - { output: w4, scheme: W4A16, method: gptq }
 * ```
 *
 * @returns undefined where a text has no `outputs`: it is a recipe of one ({@linkcode parseRecipe}).
 * @throws {RequestError} the text is no YAML, a key is unknown, a value is wrong, an output's name
 * cannot be that of a folder, two outputs have one name.
 */
export function parseOutputs(text: string, file: string): NamedRecipe[] | undefined {
  const where = `the recipe ${file}`;
  const { outputs: list, ...shared } = readFile(text, where);
  if (list === undefined) return undefined;
  if (!Array.isArray(list)) {
    throw new RequestError(`Cannot read ${where}: "outputs" must be a list of outputs.`);
  }
  if (list.length === 0) {
    throw new RequestError(`Cannot read ${where}: "outputs" is an empty list. Give it an output.`);
  }
  // What is wrong in what all share is wrong in no output.
  const { values } = readKeys(shared, where, ["outputs"]);
  within(where, () => ruleFrom(values));
  const found = list.map((entry: unknown, i) => {
    const which = `output ${i + 1} of ${where}`;
    const { output, ...own } = asObject(entry, which);
    if (output !== undefined && (typeof output !== "string" || output === "")) {
      throw new RequestError(`Cannot read ${which}: "output" must be the folder that it goes to.`);
    }
    const reason = output === undefined || checkOutputPath(output);
    if (reason !== true) {
      throw new RequestError(
        `Cannot read ${which}: its "output" is ${quote(output!)}, ${reason}. Name another folder.`,
      );
    }
    const recipe = recipeOf({ ...shared, ...own }, which, ["output"]);
    return { name: output ?? nameOf(recipe), recipe };
  });
  for (const [i, { name }] of found.entries()) {
    const other = found.findIndex((one) => one.name === name);
    if (other === i) continue;
    throw new RequestError(
      `Cannot read ${where}: outputs ${other + 1} and ${i + 1} both go to "${name}". ` +
        'Give each a folder of its own by the key "output".',
    );
  }
  return found;
}

/** `w4a16-gptq`: what the last rule makes of weights, and how where it says so. */
function nameOf({ rules }: Recipe): string {
  const { scheme, method } = rules.at(-1)!;
  const parts = method === "auto" ? [scheme] : [scheme, method];
  return parts.join("-").toLowerCase().replaceAll("_", "-");
}

function readFile(text: string, where: string): Record<string, unknown> {
  try {
    return asObject(yaml.parse(text), where);
  } catch (cause) {
    if (cause instanceof RequestError) throw cause;
    throw new RequestError(
      `Cannot read ${where}: it is neither JSON nor YAML (${(cause as Error).message}).`,
      { cause },
    );
  }
}

/** What an object's keys say, each by itself. */
interface Keys {
  readonly values: ReadonlyMap<string, OptionValue>;
  readonly rules: readonly Rule[];
  readonly ignore: readonly string[];
}

/**
 * Read an object's keys.
 *
 * @param others Keys that are read elsewhere.
 */
function readKeys(
  top: Readonly<Record<string, unknown>>,
  where: string,
  others: readonly string[] = [],
): Keys {
  const known = [...RULE_OPTIONS, ...RECIPE_OPTIONS];
  const values = readValues(top, known, ["version", "rules", "ignore", ...others], where);
  if (top.version !== undefined && top.version !== 1) {
    throw new RequestError(
      `Cannot read ${where}: its version is ${
        JSON.stringify(top.version)
      }, this Sluice reads version 1.`,
    );
  }
  const list = top.rules ?? [];
  if (!Array.isArray(list)) {
    throw new RequestError(`Cannot read ${where}: "rules" must be a list.`);
  }
  const rules = list.map((entry: unknown, i) => {
    const which = `rule ${i + 1} of ${where}`;
    const rule = asObject(entry, which);
    const { match } = rule;
    if (typeof match !== "string" || match === "") {
      throw new RequestError(`Cannot read ${which}: it needs "match", a glob or re:… pattern.`);
    }
    const said = readValues(rule, RULE_OPTIONS, ["match"], which);
    return within(which, () => {
      compile(match);
      return ruleFrom(said, match);
    });
  });
  const ignore = top.ignore ?? [];
  if (!Array.isArray(ignore) || !ignore.every((entry) => typeof entry === "string")) {
    throw new RequestError(`Cannot read ${where}: "ignore" must be a list of patterns.`);
  }
  within(where, () => (ignore as string[]).forEach(compile));
  return { values, rules, ignore };
}

/** The recipe of an object's keys; see {@linkcode readKeys}. */
function recipeOf(
  top: Readonly<Record<string, unknown>>,
  where: string,
  others?: readonly string[],
): Recipe {
  const { values, rules, ignore } = readKeys(top, where, others);
  const hasDefault = values.has("scheme") || rules.length === 0;
  return within(
    where,
    () => assemble(hasDefault ? [...rules, ruleFrom(values)] : rules, ignore, values),
  );
}

/** @throws {RequestError} what it says is wrong, and where. */
function within<T>(where: string, make: () => T): T {
  try {
    return make();
  } catch (cause) {
    if (!(cause instanceof RequestError)) throw cause;
    throw new RequestError(`Cannot read ${where}. ${cause.message}`, { cause });
  }
}

function asObject(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new RequestError(`Cannot read ${what}: it must be an object with keys such as "scheme".`);
  }
  return value as Record<string, unknown>;
}

function readValues(
  object: Record<string, unknown>,
  options: readonly Option[],
  others: readonly string[],
  what: string,
): Map<string, OptionValue> {
  const values = new Map<string, OptionValue>();
  for (const [key, value] of Object.entries(object)) {
    if (others.includes(key)) continue;
    const option = options.find((candidate) => recipeKey(candidate) === key);
    if (!option) {
      const names = [...options.map(recipeKey), ...others].join(", ");
      throw new RequestError(`Cannot read ${what}: it has no key "${key}". Keys are ${names}.`);
    }
    // Methods may be given as a list, too.
    const said = option === METHOD && Array.isArray(value) ? value.join("+") : value;
    values.set(option.name, parseOption(option, said, what));
  }
  return values;
}
