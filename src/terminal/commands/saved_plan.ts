/**
 * A plan in a file: `plan --save-plan` writes it with the texts' flags and what its run depends on,
 * `quantize --plan` runs it, where all of that is the same.
 */
import type { Backend } from "../../backend.ts";
import { quote, RequestError } from "../../errors.ts";
import { isObject, parseObject } from "../../json.ts";
import type { Plan } from "../../plan/planned.ts";
import { parsePlan, planJson, type ReadPlan } from "../../plan/saved.ts";
import type { RunOptions } from "../../run/context.ts";
import { changesOf, type Ingredients, ingredientsOf } from "../../run/key.ts";
import type { TensorSource } from "../../source.ts";
import type { Command, Flag, Host, ParsedArguments } from "../command.ts";
import { parseArguments } from "../parser.ts";
import { BITS_FLAGS } from "./bits.ts";
import { BOUND_FLAGS } from "./bounds.ts";
import {
  CALIBRATION_FLAGS,
  EVALUATE_FLAG,
  EVALUATION_FLAGS,
  PLAN_FLAG,
  RECIPE_FLAGS,
  SAVE_PLAN_FLAG,
} from "./flags.ts";
import { wordsOf } from "./flag_words.ts";

/** Flags that say which texts a plan is for. */
const TEXT_FLAGS: readonly Flag[] = [...CALIBRATION_FLAGS, EVALUATE_FLAG, ...EVALUATION_FLAGS];

/** Flags whose values a plan has settled, and that are refused beside it. */
export const SETTLED: ReadonlySet<string> = new Set(
  [...RECIPE_FLAGS, ...BITS_FLAGS, ...BOUND_FLAGS, ...TEXT_FLAGS].map(({ name }) => name),
);

/** What a run depends on, beside its plan. */
type Given = Pick<RunOptions, "calibration" | "evaluation"> & {
  readonly source: TensorSource;
  readonly backend: Backend;
};

/** Write a plan, if the flag asks for it. */
export async function savePlan(
  plan: Plan,
  { parsed, host, ...given }: Given & { readonly parsed: ParsedArguments; readonly host: Host },
): Promise<void> {
  const file = parsed.get(SAVE_PLAN_FLAG.name);
  if (file === undefined) return;
  const saved = parseObject(await planJson(plan))!;
  const ingredients = await ingredientsOf(plan, given);
  const texts = await wordsOf(parsed, TEXT_FLAGS);
  const document = { ...saved, ingredients, texts };
  await host.writeText(String(file), `${JSON.stringify(document, null, 1)}\n`);
}

/** A plan that a file holds, to be run by a command line. */
export interface AskedPlan extends ReadPlan {
  /** The command line, with the texts of the plan. */
  readonly parsed: ParsedArguments;
  /** @throws {RequestError} what the run depends on is not as it was; the sentence says what. */
  check(plan: Plan, given: Given): Promise<void>;
}

/**
 * The plan that `--plan` names; undefined where it is not given.
 *
 * @throws {RequestError} it is none, or flags say otherwise what it has settled.
 */
export async function askedPlan(
  parsed: ParsedArguments,
  { command, host }: { readonly command: Command; readonly host: Host },
): Promise<AskedPlan | undefined> {
  if (!parsed.has(PLAN_FLAG.name)) return undefined;
  const file = String(parsed.get(PLAN_FLAG.name));
  const beside = [...SETTLED, "dry-run"].find((name) => parsed.has(name));
  if (beside !== undefined) {
    throw new RequestError(
      `Cannot use --${beside} with --plan: the plan has settled that. Leave it out, or plan anew.`,
    );
  }
  const text = await host.readText(file);
  const read = await parsePlan(text, file);
  const { ingredients, texts } = parseObject(text)!;
  if (!isObject(ingredients) || !isWords(texts)) {
    throw new RequestError(
      `Cannot use the plan ${quote(file)}: it does not say for which texts. Save one by ` +
        "`plan --save-plan`.",
    );
  }
  const row = { name: "quantize", summary: "", load: () => Promise.resolve(command) };
  const words = ["quantize", parsed.arguments[0]!, ...texts];
  const { given } = (await parseArguments(words, [row], host))!;
  const which = (name: string) => SETTLED.has(name) ? given : parsed;
  return {
    ...read,
    parsed: {
      arguments: parsed.arguments,
      knows: (name) => parsed.knows(name),
      has: (name) => which(name).has(name),
      get: (name) => which(name).get(name),
      all: (name) => which(name).all(name),
    },
    async check(plan, now) {
      const { measured: _, ...before } = ingredients as Ingredients;
      const { measured: __, ...after } = await ingredientsOf(plan, now);
      const [found] = changesOf(before, after);
      if (found === undefined) return;
      throw new RequestError(
        `Cannot run the plan ${quote(file)}: ${found}. Plan anew, or run it where nothing has ` +
          "changed.",
      );
    },
  };
}

function isWords(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((word) => typeof word === "string");
}
