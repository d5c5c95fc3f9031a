/**
 * A choice of options as a plain recipe: rules by patterns of layers, which a person can read and
 * change. Pure.
 */
import { chainNamed, METHODS, methodsOf } from "../methods/mod.ts";
import { usualMethod } from "../plan/decide.ts";
import { modulePath, type Recipe, type Rule } from "../recipe.ts";
import { placeOf } from "../report/places.ts";
import { activationsOf } from "../scheme.ts";
import { type Group, type GroupOption, KEPT } from "./groups.ts";

/** A group, and the option that was chosen for it. */
export interface ChosenGroup {
  readonly group: Group;
  readonly option: GroupOption;
}

/**
 * A rule with a scheme and a method in place of its own, and of its options what these take; those
 * that no method has are the scheme's, and stay.
 */
export function ruleWith(rule: Rule, scheme: string, method: string): Rule {
  const takers = methodsOf(chainNamed(method));
  const takes = (name: string) => {
    const owners = METHODS.filter(({ options }) => options.some((option) => option.name === name));
    return owners.length === 0 || owners.some((owner) => takers.includes(owner));
  };
  const options = Object.entries(rule.options).filter(([name]) => takes(name));
  return { ...rule, scheme, method, options: Object.fromEntries(options) };
}

/**
 * A recipe whose rule for all weights has given way to rules for those that were chosen for.
 *
 * @param base Its last rule has no pattern.
 */
export function recipeOf(base: Recipe, chosen: readonly ChosenGroup[]): Recipe {
  const usual = base.rules.at(-1)!;
  const kinds = Map.groupBy(
    chosen,
    ({ group: { names }, option: { name } }) => `${name} ${kindOf(names)}`,
  );
  const rules = [...kinds.values()].map((members): Rule => {
    const [{ option: { name, tasks: [task] } }] = members as [ChosenGroup];
    const match = patternOf(members.map(({ group: { names } }) => names));
    if (!task) return { match, scheme: "none", method: "auto", options: {} };
    // What is no linear of a block has inputs that no method sees.
    if (task.rule.match !== undefined) return { ...ruleWith(usual, name, "rtn"), match };
    const { method } = usual;
    const rule = method === "auto"
      ? { ...ruleWith(usual, name, usualMethod(task.scheme)), method }
      : { ...usual, scheme: name };
    return { ...rule, match };
  });
  return { ...base, rules: [...base.rules.slice(0, -1), ...rules] };
}

/** Whether codes of an option will be chosen so that their errors make up for each other. */
export function isCompensated(
  base: Recipe,
  { tasks: [task] }: Pick<GroupOption, "tasks">,
): boolean {
  // What is no linear of a block is rounded to nearest.
  if (!task || task.rule.match !== undefined) return false;
  const { method } = base.rules.at(-1)!;
  const { rounding } = chainNamed(method === "auto" ? usualMethod(task.scheme) : method);
  return rounding.compensates === true && activationsOf(task.scheme) === "none";
}

/** What weights are called within a block: `self_attn.q_proj, self_attn.k_proj`. */
export function kindOf(names: readonly string[]): string {
  return names.map((name) => placeOf(name).rest).join(", ");
}

/** A pattern of weights that have the same names but for the number of their layer. */
export function patternOf(sets: readonly (readonly string[])[]): string {
  const places = sets.map((names) => placeOf(names[0]!));
  const [{ stem }] = places as [typeof places[0]];
  const prefix = stem === "" ? "" : `${stem}.`;
  if (places.some((place) => place.depth === null || place.stem !== stem)) {
    return `re:${either(sets.flat().map(literal))}$`;
  }
  const before = `${prefix}${places[0]!.depth}.`.length;
  const rests = sets[0]!.map((name) => literal(modulePath(name.slice(before))));
  const numbers = places.map(({ depth }) => String(depth));
  return `re:${literal(prefix)}${either(numbers)}\\.${either(rests)}$`;
}

/** A name as a regular expression that finds it alone. */
function literal(name: string): string {
  return name.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");
}

function either(words: readonly string[]): string {
  return words.length === 1 ? words[0]! : `(${words.join("|")})`;
}

/** Whether an option leaves weights as they are. */
export function isKept({ name }: Pick<GroupOption, "name">): boolean {
  return name === KEPT;
}
