/**
 * What machines that share a plan leave for each other: what is to be done, and what each unit came
 * to. As JSON, wherever they meet.
 */
import { quote, RequestError } from "../errors.ts";
import { isObject, parseObject } from "../json.ts";
import { sum } from "../tensor.ts";
import type { Ingredients } from "./key.ts";
import type { FinishedUnit } from "./journal_records.ts";

/** What is to be done: `job.json`. */
export interface WorkJob {
  readonly job: 1;
  /** Of what the result depends on; see run/key.ts. */
  readonly key: string;
  readonly ingredients: Ingredients;
  /** The model and the flags that the plan was made with, as words of a command line. */
  readonly words: readonly string[];
  /** The recipe, which a file of `words` may not hold any more; as a recipe file has it. */
  readonly recipe: Readonly<Record<string, unknown>>;
  readonly units: readonly string[];
}

/** The record of a unit that is done; its pieces lie one after another in its bytes. */
export interface StoredUnit extends Omit<FinishedUnit, "distributions" | "windows"> {
  readonly unit: 1;
  readonly key: string;
}

/** What a place says of its job. */
export const JOB_FILE = "job.json";

/**
 * Read what a place says of its job.
 *
 * @param text Undefined where it says nothing.
 * @param path The place, for messages.
 * @throws {RequestError} there is no job, or it is of another version.
 */
export function parseJob(text: string | undefined, path: string): WorkJob {
  if (text === undefined) {
    throw new RequestError(
      `Cannot work in ${
        quote(path)
      }: there is no ${JOB_FILE}, which a plan with \`work-dir\` makes.`,
    );
  }
  const root = parseObject(text);
  const sound = root?.job === 1 && typeof root.key === "string" && isObject(root.ingredients) &&
    isWords(root.words) && isWords(root.units) && isObject(root.recipe);
  if (sound) return root as unknown as WorkJob;
  throw new RequestError(
    `Cannot work in ${quote(path)}: its ${JOB_FILE} is not what this version of Sluice writes.`,
  );
}

/**
 * Read the record of a unit.
 *
 * @param path The record, for messages.
 * @throws {RequestError} it is not of this job.
 */
export function parseUnit(text: string, { key }: WorkJob, path: string): StoredUnit {
  const root = parseObject(text);
  if (root?.unit === 1 && root.key === key) return root as unknown as StoredUnit;
  throw new RequestError(
    `Cannot use ${quote(path)}: it is not of this job. Remove it, and have the unit done again.`,
  );
}

/** The error for bytes of a unit that are others than its record says. */
export function otherBytes(path: string): RequestError {
  return new RequestError(
    `Cannot take over ${quote(path)}: its bytes are not those that were written. Remove it, and ` +
      "have the unit done again.",
  );
}

/** Bytes of all pieces of a unit. */
export function bytesIn({ pieces }: StoredUnit): number {
  return sum(pieces, ({ begin, end }) => end - begin);
}

/** A unit's number as files have it, or a name as it is. */
export function nameOf(what: number | string): string {
  return String(what).padStart(5, "0");
}

function isWords(value: unknown): boolean {
  return Array.isArray(value) && value.every((word) => typeof word === "string");
}
