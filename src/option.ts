/**
 * An option is one row: it makes the flag, the help, the recipe key and its check.
 *
 * Messages of the library name an option as a caller of the library gives it, in backticks
 * (`max-shard-size`, `numSamples`, `budgets.ram`); where it was given as a flag, the terminal shows
 * the flag in its place (terminal/option_words.ts).
 */
import { RequestError } from "./errors.ts";
import { size } from "./size.ts";

/** What a person may say. */
export type OptionValue = string | number | boolean;
export type OptionValues = Readonly<Record<string, OptionValue>>;

/** One option: `--group-size <n>` on the command line, `group_size` in a recipe. */
export interface Option {
  /** The flag without dashes: `group-size`. */
  readonly name: string;
  readonly type: "string" | "integer" | "number" | "boolean" | "bytes";
  readonly help: string;
  /** What stands for the value in `--help`: `n`, `path`. */
  readonly placeholder?: string;
  readonly default?: OptionValue;
  /** The only values allowed; of a number, words that may stand for one. */
  readonly choices?: readonly string[];
  readonly min?: number;
  readonly max?: number;
}

/** The recipe key of an option: `group_size`. */
export function recipeKey(option: Option): string {
  return option.name.replaceAll("-", "_");
}

const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
};

/**
 * Check one value, from a flag (always text) or a recipe (text, number, boolean).
 *
 * @param where The recipe's file, or the rule in it, for messages.
 * @throws {RequestError} the value is not of the option's type, range or choices.
 */
export function parseOption(option: Option, value: unknown, where?: string): OptionValue {
  const fail = (want: string): never => {
    const given = JSON.stringify(value);
    const said = where === undefined
      ? `\`${option.name}\` ${given}`
      : `"${recipeKey(option)}: ${given}" in ${where}`;
    throw new RequestError(`Cannot use ${said}: it must be ${want}.`);
  };
  switch (option.type) {
    case "boolean":
      if (typeof value === "boolean") return value;
      if (value === "true" || value === "false") return value === "true";
      return fail("true or false");
    case "string": {
      if (typeof value !== "string" || value === "") return fail("text");
      if (option.choices && !option.choices.includes(value)) {
        return fail(`one of ${option.choices.join(", ")}`);
      }
      return value;
    }
    case "bytes": {
      const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)$/i.exec(String(value));
      const unit = match && UNITS[match[2]!.toLowerCase()];
      if (!match || !unit) return fail("a size such as 500MB or 4GiB");
      const bytes = Math.round(Number(match[1]) * unit);
      if (bytes < (option.min ?? 0)) return fail(`at least ${size(option.min!)}`);
      return bytes;
    }
    case "integer":
    case "number": {
      if (typeof value === "string" && option.choices?.includes(value)) return value;
      const words = option.choices ? `${option.choices.join(", ")}, or ` : "";
      const number = typeof value === "number"
        ? value
        : typeof value === "string" && value.trim() !== ""
        ? Number(value)
        : NaN;
      const { min = -Infinity, max = Infinity } = option;
      const kind = words + (option.type === "integer" ? "a whole number" : "a number");
      if (
        !Number.isFinite(number) || (option.type === "integer" && !Number.isSafeInteger(number))
      ) return fail(kind);
      if (number < min || number > max) {
        return fail(
          max === Infinity ? `${kind} of at least ${min}` : `${kind} from ${min} to ${max}`,
        );
      }
      return number;
    }
  }
}
