/**
 * What each group of linears loses by each option, kept in a file that a later run takes: JSON, of
 * a version, tied to the model by a hash of its config and of its tensors' names, dtypes and shapes,
 * and to the text it was measured on. Refuses another model's, and what it does not hold.
 */
import { RequestError } from "../errors.ts";
import { hashWindows, sha256 } from "../hash.ts";
import { isObject, parseObject } from "../json.ts";
import type { RecordedWindows } from "../report/record.ts";
import type { OptionValues } from "../option.ts";
import { rtn } from "../methods/rtn.ts";
import type { Scheme } from "../scheme.ts";
import type { TensorSource } from "../source.ts";
import type { Recipe } from "../recipe.ts";
import { VERSION } from "../version.ts";
import { type Group, KEPT } from "./groups.ts";
import { isCompensated } from "./recipe.ts";

/** How losses are found. */
export type SensitivityKind = "divergence" | "gradient" | "loss";

/** Losses of all groups by all options. */
export interface Sensitivities {
  readonly version: 1;
  readonly by: SensitivityKind;
  /** See {@linkcode modelHash}. */
  readonly model: string;
  /** The windows; null where nothing is known of them. */
  readonly text: RecordedWindows | null;
  /** See {@linkcode measurementOf}; absent where they were not measured for themselves. */
  readonly measurement?: string;
  /**
   * What an option's name meant: its scheme for the first weight, and how that was rounded; by
   * gradients also whether errors were taken to make up for each other, as GPTQ's do, and to be
   * propagated.
   */
  readonly options: Readonly<
    Record<
      string,
      {
        readonly scheme: Scheme;
        readonly how: OptionValues;
        readonly compensated?: true;
        readonly propagated?: true;
      }
    >
  >;
  readonly groups: readonly {
    readonly weights: readonly string[];
    /** By option: KL divergence, measured or by gradients, in nats per token; or GPTQ's loss. */
    readonly losses: Readonly<Record<string, number>>;
  }[];
}

/** SHA-256, in hex, of a model's config and its tensors' names, dtypes and shapes. */
export async function modelHash(
  { config, tensors }: Pick<TensorSource, "config" | "tensors">,
): Promise<string> {
  const all = [...tensors.values()].map(({ name, dtype, shape }) => [name, dtype, ...shape]);
  all.sort(([a], [b]) => String(a) < String(b) ? -1 : 1);
  return await sha256(JSON.stringify([config, all]));
}

/** Groups, and the recipe whose method will choose their codes. */
interface Work {
  readonly base: Recipe;
  readonly groups: readonly Group[];
}

/** What the options of some groups mean. */
function meanings({ base, groups }: Work, by: SensitivityKind): Sensitivities["options"] {
  return Object.fromEntries((groups[0]?.options ?? []).flatMap((option) => {
    const { name, tasks: [task] } = option;
    if (!task) return [];
    const how = rtn.options.flatMap((option) => {
      const value = task.rule.options[option.name];
      return value === undefined ? [] : [[option.name, value] as const];
    });
    const compensated = by === "gradient" && isCompensated(base, option);
    return [[name, {
      scheme: task.scheme,
      how: Object.fromEntries(how),
      ...(compensated ? { compensated: true as const } : {}),
      ...(compensated && base.propagate ? { propagated: true as const } : {}),
    }]];
  }));
}

/**
 * Put losses together with what they are of.
 *
 * @param losses Of each group, for its options in order but for {@linkcode KEPT}, which loses
 * nothing.
 */
export function sensitivitiesOf(
  work: Work,
  losses: readonly (readonly number[])[],
  about: Pick<Sensitivities, "by" | "model" | "text" | "measurement">,
): Sensitivities {
  return {
    version: 1,
    ...about,
    options: meanings(work, about.by),
    groups: work.groups.map(({ names, options }, i) => ({
      weights: names,
      losses: Object.fromEntries(
        options.filter(({ name }) => name !== KEPT).map(({ name }, o) => [name, losses[i]![o]!]),
      ),
    })),
  };
}

/** A hash of what a measurement is of: of two that have one, the losses are the same. */
export async function measurementOf(
  work: Work,
  { windows, ...about }: Pick<Sensitivities, "by" | "model" | "text"> & {
    readonly windows: readonly Uint32Array<ArrayBuffer>[];
  },
): Promise<string> {
  const groups = work.groups.map(({ names, options }) => [names, options.map(({ name }) => name)]);
  const options = meanings(work, about.by);
  const all = [VERSION, about, await hashWindows(windows), options, groups];
  return await sha256(JSON.stringify(all));
}

/** Where losses are kept while they are measured, so that a stopped measurement goes on. */
export interface LossKeeper {
  /** What an earlier measurement came to, if it was of the same. */
  find(of: string): Promise<Sensitivities | undefined>;
  /** Of the first candidates of a measurement; none where nothing is known of it. */
  load(of: string): Promise<readonly number[]>;
  save(of: string, losses: readonly number[]): Promise<void>;
}

/**
 * Read a file of sensitivities.
 *
 * @param model The hash of the model they are to be of.
 * @throws {RequestError} it is none, of another version, or of another model.
 */
export function parseSensitivities(text: string, file: string, model: string): Sensitivities {
  const refuse = (what: string): never => {
    throw new RequestError(`Cannot use the sensitivities of ${file}: ${what}.`);
  };
  const root = parseObject(text) ?? refuse("it holds no JSON object");
  const { version, by, groups, options } = root;
  if (root.unfinished !== undefined) {
    refuse(
      "their measurement was stopped. Run the command that measures them, and it goes on",
    );
  }
  if (version !== 1) {
    refuse(`its version is ${JSON.stringify(version)}, this Sluice reads version 1`);
  }
  if (root.model !== model) {
    refuse(
      "they are of another model: its config, or its tensors' names, dtypes or shapes, differ. " +
        "Measure them again",
    );
  }
  const isLoss = (loss: unknown) => typeof loss === "number" && loss >= 0 && loss < Infinity;
  const sound = (by === "divergence" || by === "gradient" || by === "loss") && isObject(options) &&
    Object.values(options).every((one) =>
      isObject(one) && isObject(one.scheme) && isObject(one.how)
    ) && Array.isArray(groups) &&
    groups.every((group) =>
      isObject(group) && Array.isArray(group.weights) && isObject(group.losses) &&
      Object.values(group.losses).every(isLoss)
    );
  if (!sound) refuse("a key is missing, or has a value that it cannot have");
  return root as unknown as Sensitivities;
}

/**
 * The losses of groups by their options, in order; 0 for what stays as it is.
 *
 * @throws {RequestError} they are not known, or of other schemes or, by gradients, methods.
 */
export function lossesOf(work: Work, known: Sensitivities): number[][] {
  for (const [name, meaning] of Object.entries(meanings(work, known.by))) {
    const found = Object.hasOwn(known.options, name) ? known.options[name] : undefined;
    if (JSON.stringify(found) === JSON.stringify(meaning)) continue;
    throw new RequestError(
      found
        ? `Cannot use the sensitivities: ${name} was measured with other options ` +
          `(${JSON.stringify(found)}) than are asked for now (${JSON.stringify(meaning)}). ` +
          "Measure them again."
        : `Cannot use the sensitivities: they are of ${Object.keys(known.options).join(", ")}, ` +
          `and not of ${name}. Leave it out of \`options\`, or measure them again.`,
    );
  }
  const byWeights = new Map(known.groups.map(({ weights, losses }) => [weights.join(), losses]));
  return work.groups.map(({ names, options }) => {
    const losses = byWeights.get(names.join());
    return options.map(({ name }) => {
      const loss = name === KEPT ? 0 : losses?.[name];
      if (loss !== undefined) return loss;
      throw new RequestError(
        `Cannot use the sensitivities: they have none of ${names.join(", ")} for ${name}. ` +
          "Measure them again.",
      );
    });
  });
}
