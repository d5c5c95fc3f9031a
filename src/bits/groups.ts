/**
 * The groups of linears among which bits are shared out: those that inference engines multiply as
 * one (q, k and v; gate and up) have one option together, every other has its own. What each option
 * takes of it is read off the project's own plans.
 */
import { UnsupportedError } from "../errors.ts";
import type { Model } from "../family.ts";
import { graphsOf } from "../graph/block_graph.ts";
import { type QuantizeTask, quantizeTasks } from "../plan/tasks.ts";
import type { Plan } from "../plan/planned.ts";
import { inputObserver } from "../plan/needs.ts";
import { codeBits, type Scheme } from "../scheme.ts";
import { byteLength, elementCount, sum } from "../tensor.ts";

/** An option that leaves weights as they are. */
export const KEPT = "BF16";

/** The model as one option would make it, for all weights that it may be chosen for. */
export interface UniformPlan {
  readonly option: string;
  readonly plan: Plan;
}

/** One of the things that a group of linears may become. */
export interface GroupOption {
  /** A scheme's name, or {@linkcode KEPT}. */
  readonly name: string;
  /** Stored bytes of all its weights. */
  readonly bytes: number;
  /** How its weights become that; none where they stay as they are. */
  readonly tasks: readonly QuantizeTask[];
}

/** Linears that have one option together. */
export interface Group {
  /** The number of the block; that after the last for the head. */
  readonly block: number;
  /** Their weights, in the order of use. */
  readonly names: readonly string[];
  /** Elements of all of them. */
  readonly elements: number;
  readonly options: readonly GroupOption[];
}

/** Bits of a code; of floats that stay, or that a scheme casts to, those of one. */
export function nominalBits(scheme: Scheme | undefined): number {
  return (scheme && codeBits(scheme)) ?? 16;
}

/**
 * The groups of a model, in the order of its blocks.
 *
 * @param plans One for each scheme among the options.
 * @param options.kept Whether weights may stay as they are, too.
 * @param options.head The pattern by which the plans' rules name the head, if it is to take part.
 * @throws {UnsupportedError} options are stored in different formats, or round activations by
 * scales that calibration fixes, which is not measured here.
 */
export function groupsOf(
  model: Model,
  plans: readonly UniformPlan[],
  { kept, head }: { readonly kept: boolean; readonly head?: string | undefined },
): Group[] {
  const [first] = plans as [UniformPlan];
  const other = plans.find(({ plan }) => plan.format !== first.plan.format);
  if (other) {
    refuse(
      other.option,
      `${first.option} is stored in ${first.plan.format.name} and ${other.option} in ` +
        `${other.plan.format.name}; give options of one format`,
    );
  }
  const tasks = plans.map(({ option, plan }) => {
    const own = quantizeTasks(plan.units).filter(({ rule: { match } }) =>
      match === undefined || match === head
    );
    if (own.some(({ scheme, rule }) => inputObserver(scheme, rule.options) !== undefined)) {
      refuse(option, "it rounds activations by fixed scales; dynamic ones are measured");
    }
    return { option, byName: new Map(own.map((task) => [task.name, task])) };
  });
  const sets = graphsOf(model).flatMap(({ matrices }, block) => {
    const fused = Map.groupBy(matrices, ({ name, parts }) => parts[0]!.linear.fused ?? name);
    return [...fused.values()].map((set) => ({ block, names: set.map(({ name }) => name) }));
  });
  const last = model.head?.linear.at.of;
  if (last !== undefined) sets.push({ block: sets.at(-1)!.block + 1, names: [last] });
  return sets.map(({ block, names }) => ({
    block,
    names: names.filter((name) => tasks[0]!.byName.has(name)),
  })).filter(({ names }) => names.length > 0).map(({ block, names }): Group => {
    const options = tasks.map(({ option, byName }): GroupOption => {
      const own = names.map((name) => byName.get(name)!);
      return {
        name: option,
        bytes: sum(own, ({ outputs }) => sum(outputs, byteLength)),
        tasks: own,
      };
    });
    const weights = options[0]!.tasks.map(({ weight }) => weight);
    return {
      block,
      names,
      elements: sum(weights, ({ shape }) => elementCount(shape)),
      options: kept
        ? [...options, { name: KEPT, bytes: sum(weights, byteLength), tasks: [] }]
        : options,
    };
  });
}

function refuse(option: string, reason: string): never {
  throw new UnsupportedError(`Cannot choose among \`options\` with ${option}: ${reason}.`, {
    what: option,
    reason,
  });
}
