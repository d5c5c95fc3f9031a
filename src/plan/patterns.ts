/**
 * A recipe's patterns against the names of a checkpoint: one that names nothing is a slip, and is
 * refused with the name that was meant.
 */
import defer * as levenshtein from "fastest-levenshtein";
import { UnsupportedError } from "../errors.ts";
import { matches, modulePath, type Recipe } from "../recipe.ts";
import type { TensorSource } from "../source.ts";

/**
 * Check that every pattern names a tensor.
 *
 * @param virtual A name that a pattern may mean though the checkpoint has no such tensor: a head
 * that is tied to the embedding.
 * @throws {UnsupportedError} one names none; the sentence says what was probably meant.
 */
export function checkPatterns(
  { ignore, rules }: Pick<Recipe, "ignore" | "rules">,
  { tensors, label }: Pick<TensorSource, "tensors" | "label">,
  virtual: string | undefined,
): void {
  const names = [...tensors.keys(), ...(virtual === undefined ? [] : [virtual])];
  const refuse = (what: string, pattern: string): never => {
    const meant = likeliest(pattern, names);
    const hint = meant === undefined
      ? names.length === 0 ? "" : ` Its tensors have names such as "${exampleOf(names)}".`
      : ` Did you mean "${meant}"?`;
    throw new UnsupportedError(
      `Cannot ${what} "${pattern}": no tensor of ${label} matches it.${hint}`,
      {
        what: pattern,
        reason: "the pattern matches nothing",
      },
    );
  };
  const namesNothing = (pattern: string) => !names.some((name) => matches(pattern, name));
  for (const pattern of ignore) {
    if (namesNothing(pattern)) refuse("ignore", pattern);
  }
  for (const { match } of rules) {
    if (match !== undefined && namesNothing(match)) refuse("apply the rule for", match);
  }
}

/**
 * The name of a weight in the middle of the model, which says more of its names than an
 * embedding's.
 */
function exampleOf(names: readonly string[]): string {
  const weights = names.filter((name) => name.endsWith(".weight"));
  const some = weights.length > 0 ? weights : names;
  return some[some.length >> 1]!;
}

/**
 * The pattern that was probably meant by one that names nothing: a word of it is almost one of the
 * checkpoint's.
 */
function likeliest(pattern: string, names: readonly string[]): string | undefined {
  const isExpression = pattern.startsWith("re:");
  const text = isExpression ? pattern.slice(3).replaceAll("\\", "") : pattern;
  const [word] = text.split(/[^\w.-]+|\.(?=\W|$)/).map((piece) => piece.replace(/^\.+|\.+$/g, ""))
    .sort((a, b) => b.length - a.length);
  if (!word) return undefined;
  const words = new Set(names.flatMap((name) => runsOf(modulePath(name))));
  if (words.size === 0) return undefined;
  const found = levenshtein.closest(word, [...words]);
  if (levenshtein.distance(word, found) > Math.max(1, Math.floor(word.length / 4))) {
    return undefined;
  }
  const any = isExpression ? "re:.*" : "*";
  return [pattern.replace(word, found), any + found, `${any}${found}${isExpression ? "" : "*"}`]
    .find((candidate) => names.some((name) => matches(candidate, name)));
}

/**
 * What may be meant by a part of a pattern: `q_proj`, `self_attn`, `self_attn.q_proj`, and the path
 * from its beginning.
 */
function runsOf(path: string): string[] {
  const parts = path.split(".");
  const runs = parts.flatMap((_, from) =>
    [1, 2, 3].map((count) => parts.slice(from, from + count)).filter((run) =>
      run.length > 0 && !run.some((part) => /^\d+$/.test(part))
    )
  );
  return [...parts.map((_, i) => parts.slice(0, i + 1)), ...runs].map((run) => run.join("."));
}
