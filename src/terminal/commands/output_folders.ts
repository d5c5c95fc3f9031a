/**
 * Several outputs of one command: where each goes, and what a command cannot do with several.
 * Refused: folders that are the same or in one another, and flags that are about one checkpoint.
 */
import { join, relative, resolve, sep } from "node:path";
import { quote, RequestError } from "../../errors.ts";
import { unstored } from "../../formats/unstored.ts";
import { nameKey } from "../../io/names.ts";
import type { NamedRecipe } from "../../recipe_file.ts";
import type { Host, ParsedArguments } from "../command.ts";
import { BITS_FLAGS } from "./bits.ts";
import { BOUND_FLAGS } from "./bounds.ts";
import { readOutputs } from "./flags.ts";

/** An output, and its folder. */
export interface PlacedRecipe extends NamedRecipe {
  readonly path: string;
}

/** Flags that are about one checkpoint. */
const OF_ONE: readonly string[] = [
  ...[...BITS_FLAGS, ...BOUND_FLAGS].map(({ name }) => name),
  ...["upload-repo", "metrics", "report", "timeline"],
];

/**
 * The outputs that a recipe file asks for, in folders in `--output` or, without it, the working
 * folder; undefined where it asks for one.
 *
 * @throws {RequestError} see the head of this file.
 */
export async function askedOutputs(
  parsed: ParsedArguments,
  host: Host,
): Promise<PlacedRecipe[] | undefined> {
  const found = await readOutputs(parsed, host);
  if (!found) return undefined;
  const flag = OF_ONE.find((name) => parsed.knows(name) && parsed.has(name));
  if (flag !== undefined) {
    throw new RequestError(
      `Cannot use --${flag} with a recipe of several outputs: it is about one checkpoint. ` +
        "Quantize that one by a recipe of its own.",
    );
  }
  const nothing = found.find(({ recipe }) => recipe.format === unstored.name);
  if (nothing) {
    throw new RequestError(
      `Cannot make the output ${quote(nothing.name)} with format none: nothing would be in it.`,
    );
  }
  const folder = parsed.knows("output") ? parsed.get("output") : undefined;
  const placed = found.map((output) => ({
    ...output,
    path: folder === undefined ? output.name : join(String(folder), output.name),
  }));
  for (const [i, one] of placed.entries()) {
    for (const other of placed.slice(i + 1)) refuseWithin(one, other);
  }
  return placed;
}

/** @throws {RequestError} one folder is the other, or in it. */
function refuseWithin(one: PlacedRecipe, other: PlacedRecipe): void {
  const [a, b] = [one, other].map(({ path }) => nameKey(resolve(path)));
  const isWithin = (inner: string, outer: string) => {
    const way = relative(outer, inner);
    return way === "" ||
      way !== ".." && !way.startsWith(`..${sep}`) && resolve(outer, way) === inner;
  };
  if (!isWithin(a!, b!) && !isWithin(b!, a!)) return;
  const found = a === b ? "they are one folder" : "one is in the other";
  throw new RequestError(
    `Cannot make the outputs ${quote(one.name)} and ${quote(other.name)}: ${found}. ` +
      'Give each a folder apart from the others by the key "output" in the recipe.',
  );
}
