/** The flags by which `quantize` and `plan` set bounds, and what they say. */
import { RequestError } from "../../errors.ts";
import { chainNamed } from "../../methods/mod.ts";
import type { Recipe } from "../../recipe.ts";
import type { Bounds } from "../../report/certificate.ts";
import type { Flag, ParsedArguments } from "../command.ts";

const GROUP = "A guarantee";

/** Recipes that are tried unless told otherwise. */
const USUAL_TRIES = 6;
/** Methods that are tried where nobody names one. */
const USUAL_METHODS = ["auto", "gptq"] as const;

const LIMITS: readonly Flag[] = [
  {
    name: "max-kl",
    type: "number",
    placeholder: "nats",
    help:
      "search for the bits and the method of the fewest bytes by which the KL divergence from " +
      "the original, per token, is below this with 95 % confidence, on a text that calibration has " +
      "not seen; measures as --evaluate does, and writes a certificate",
    group: GROUP,
  },
  {
    name: "max-perplexity-increase",
    type: "string",
    placeholder: "percent",
    help: "the same for the increase of perplexity over the original's: 1%",
    group: GROUP,
  },
];

const SEARCH: readonly Flag[] = [
  {
    name: "max-tries",
    type: "integer",
    placeholder: "n",
    min: 1,
    max: 100,
    help: `recipes that are tried at most, for which limits are corrected (${USUAL_TRIES} unless ` +
      "given); each is a whole quantization",
    group: GROUP,
  },
  {
    name: "methods",
    type: "string",
    placeholder: "list",
    help:
      `methods to try, the best of which goes on (--method if given, else ${USUAL_METHODS.join()}): ` +
      "auto,awq+gptq+tune",
    group: GROUP,
  },
];

/** All of them. */
export const BOUND_FLAGS: readonly Flag[] = [...LIMITS, ...SEARCH];

/** A search for a recipe, as the flags ask for it. */
export interface AskedBounds {
  readonly bounds: Bounds;
  readonly maxTries: number;
  /** Undefined where the recipe says it, or nobody. */
  readonly methods: readonly string[] | undefined;
}

/** The first of the flags that sets a bound; undefined where none does. */
export function boundFlag(parsed: ParsedArguments): string | undefined {
  return LIMITS.find(({ name }) => parsed.knows(name) && parsed.has(name))?.name;
}

/** Whether what is quantized is measured in the same pass. */
export function isMeasured(parsed: ParsedArguments): boolean {
  return parsed.knows("evaluate") && parsed.get("evaluate") === true ||
    boundFlag(parsed) !== undefined;
}

/**
 * What the flags ask for; undefined where they set no bound.
 *
 * @throws {RequestError} a bound is not a positive number, or there is a search and no bound.
 */
export function askedBounds(parsed: ParsedArguments): AskedBounds | undefined {
  if (boundFlag(parsed) === undefined) {
    const flag = SEARCH.find(({ name }) => parsed.has(name));
    if (!flag) return undefined;
    throw new RequestError(
      `Cannot use --${flag.name}: nothing is searched for. Give --max-kl or ` +
        "--max-perplexity-increase.",
    );
  }
  if (parsed.has("methods") && parsed.has("method")) {
    throw new RequestError(
      "Cannot use --methods and --method together: both say how codes are chosen.",
    );
  }
  const [kl, increase] = [parsed.get("max-kl"), parsed.get("max-perplexity-increase")];
  return {
    bounds: {
      ...(kl === undefined ? {} : { kl_divergence: positive(Number(kl), `--max-kl ${kl}`) }),
      ...(increase === undefined ? {} : { perplexity_increase: share(String(increase)) }),
    },
    maxTries: Number(parsed.get("max-tries") ?? USUAL_TRIES),
    methods: parsed.has("methods") ? methodsOf(String(parsed.get("methods"))) : undefined,
  };
}

/** The methods to try. */
export function methodsToTry({ methods }: AskedBounds, { rules }: Recipe): readonly string[] {
  const method = rules.at(-1)?.method ?? "auto";
  return methods ?? (method === "auto" ? USUAL_METHODS : [method]);
}

function positive(value: number, said: string): number {
  if (value > 0) return value;
  throw new RequestError(
    `Cannot use ${said}: a bound is above 0, for nothing that is rounded keeps another.`,
  );
}

/** `1%` as 0.01. */
function share(text: string): number {
  const [, number] = /^(\d*\.?\d+)\s*%$/.exec(text.trim()) ?? [];
  if (number === undefined) {
    throw new RequestError(
      `Cannot use --max-perplexity-increase "${text}": it must be percent of the original's ` +
        "perplexity, such as 1% or 0.5%.",
    );
  }
  return positive(Number(number) / 100, `--max-perplexity-increase ${text}`);
}

/** @throws {RequestError} one is no method, or there twice. */
function methodsOf(text: string): string[] {
  const names = text.split(",").map((name) => name.trim().toLowerCase())
    .map((name) => name === "auto" ? name : chainNamed(name).name);
  if (new Set(names).size === names.length) return names;
  throw new RequestError(`Cannot use --methods ${text}: give each once.`);
}
