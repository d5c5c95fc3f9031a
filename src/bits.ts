/**
 * Bits where they matter: which width each group of linears gets, so that a target size is kept and
 * the least is lost. What groups lose by each option is measured, or taken from a file or an
 * earlier run; the choice is a plain recipe. Refuses targets that cannot be met, with the least
 * that can.
 */
import type { Backend, DeviceLimits } from "./backend.ts";
import type { Candidate } from "./bits/bench.ts";
import { divergenceNeeds, divergences } from "./bits/divergence.ts";
import { gradientLosses, gradientNeeds } from "./bits/gradient.ts";
import { type Group, groupsOf, KEPT, nominalBits } from "./bits/groups.ts";
import { solveKnapsack } from "./bits/knapsack.ts";
import {
  type ChosenGroup,
  isCompensated,
  isKept,
  patternOf,
  recipeOf,
  ruleWith,
} from "./bits/recipe.ts";
import {
  lossesOf,
  type LossKeeper,
  measurementOf,
  modelHash,
  type Sensitivities,
  sensitivitiesOf,
} from "./bits/sensitivities.ts";
import { RequestError, UnsupportedError } from "./errors.ts";
import type { EvaluationInput } from "./forward/streams.ts";
import type { Model } from "./family.ts";
import { plan } from "./plan.ts";
import { isApart } from "./plan/held.ts";
import { runtimeBytes } from "./plan/memory.ts";
import { evaluableModel } from "./plan/model.ts";
import { type Plan, requestOf } from "./plan/planned.ts";
import type { Recipe } from "./recipe.ts";
import type { Reporter } from "./report.ts";
import { recordedWindows } from "./report/record.ts";
import { schemeNames } from "./schemes/options.ts";
import { sizeToGive } from "./size.ts";
import type { TensorSource } from "./source.ts";
import { byteLength, sum } from "./tensor.ts";

/** What the bits are to add up to. */
export type BitsTarget =
  /** Stored bits of each weight of the linears that are chosen for, scales and all included. */
  | { readonly bitsPerWeight: number }
  /** Bytes of the whole output. */
  | { readonly bytes: number };

/** A model's linears, and what they may become. */
export interface BitOptions {
  /** The recipe whose rule for all weights gives way. */
  readonly base: Recipe;
  readonly model: Model;
  readonly groups: readonly Group[];
  /** Bytes of the output beside the weights that are chosen for, about. */
  readonly others: number;
}

/** A recipe with bits for each group. */
export interface ChosenBits {
  readonly recipe: Recipe;
  readonly chosen: readonly ChosenGroup[];
  /** Stored bits per weight of the groups' linears. */
  readonly bitsPerWeight: number;
  /** The sum of the groups' losses. */
  readonly loss: number;
}

/** Enough of a calibration to plan any method by, where nothing but sizes is asked for. */
const SOME_WINDOWS = { seqLen: 2, windows: 2, stateBudget: Infinity } as const;

/**
 * The options of a list such as `W3A16,W4A16,W8A16,BF16`.
 *
 * @throws {RequestError} one is no scheme of fewer bits, there are fewer than two, or one twice.
 */
export function parseBitOptions(text: string): string[] {
  const names = text.split(",").map((name) => name.trim().toUpperCase());
  const able = schemeNames().filter((name) => !["F16", "F32"].includes(name));
  const wrong = names.find((name) => !able.includes(name));
  if (wrong !== undefined) {
    throw new RequestError(
      `Cannot use \`options\` "${text}": "${wrong}" is none of ${able.join(", ")} ` +
        `(${KEPT} leaves weights as they are).`,
    );
  }
  if (names.length < 2 || new Set(names).size < names.length) {
    throw new RequestError(`Cannot use \`options\` "${text}": give two or more, each once.`);
  }
  return names;
}

/**
 * What linears of a model may become, and the bytes of each, from headers alone.
 *
 * @throws {UnsupportedError} an option cannot be had, the model cannot be run, or its head is to
 * take part and is tied to the embedding.
 * @throws {RequestError} the recipe has no rule for all weights.
 */
export function bitOptions(
  base: Recipe,
  source: TensorSource,
  { options, device, head = false }: {
    readonly options: readonly string[];
    readonly device: DeviceLimits;
    /** Whether bits are chosen for the output head, too. */
    readonly head?: boolean;
  },
): BitOptions {
  const usual = base.rules.at(-1);
  if (!usual || usual.match !== undefined) {
    throw new RequestError(
      "Cannot choose bits: the recipe has no rule for all weights, which the chosen ones take the " +
        "place of. Give it a `scheme`.",
    );
  }
  const model = evaluableModel(source, { advice: "Give a recipe in place of a target." });
  const pattern = head ? patternOf([[model.head!.linear.at.of]]) : undefined;
  const plans = options.filter((name) => name !== KEPT).map((option) => {
    const own = ruleWith(usual, option, "rtn");
    const named = base.rules.slice(0, -1);
    const rules = [...named, ...(pattern === undefined ? [] : [{ ...own, match: pattern }]), own];
    const recipe = { ...base, rules };
    return { option, plan: plan(recipe, source, { device, calibration: SOME_WINDOWS }) };
  });
  const groups = groupsOf(model, plans, { kept: options.includes(KEPT), head: pattern });
  const [first] = plans as [typeof plans[0]];
  return {
    base,
    model,
    groups,
    others: first.plan.totalBytes - sum(groups, ({ options: [own] }) => own!.bytes),
  };
}

/** How sensitivities are measured. */
interface Measuring {
  /** `divergence` unless given; `gradient` takes as long as a few walks, for all groups. */
  readonly by?: "divergence" | "gradient";
  readonly backend: Backend;
  readonly windows: EvaluationInput;
}

/**
 * Bytes of memory that {@linkcode measureSensitivities} takes at most: of the process, or of the
 * card where the device is one.
 *
 * @throws {UnsupportedError} the device, or the budget for hidden states, is too small.
 */
export function sensitivityMemory(
  source: TensorSource,
  work: BitOptions,
  { by = "divergence", backend, windows: input }: Measuring,
): number {
  const needs = by === "gradient" ? gradientNeeds : divergenceNeeds;
  const { model } = work;
  const { bytes } = needs(source, candidatesOf(work).flat(), { model, backend, input });
  return bytes + (isApart(backend) ? 0 : runtimeBytes(backend) + (source.bufferBytes ?? 0));
}

/** What is quantized alone, by group and option. */
function candidatesOf({ base, groups }: BitOptions): Candidate[][] {
  return groups.map(({ block, options }) =>
    options.filter((option) => !isKept(option)).map((option): Candidate => {
      const compensated = isCompensated(base, option);
      return { block, tasks: option.tasks, compensated, propagated: compensated && base.propagate };
    })
  );
}

/**
 * Measure what every group loses by every option, that group alone rounded to nearest: the KL
 * divergence from the original, or what gradients of the text's likelihood say of it.
 *
 * @param options.keeper Keeps what is measured of candidates one by one, so that a measurement that
 * was stopped goes on.
 * @throws what `divergences` or `gradientLosses` throws.
 */
export async function measureSensitivities(
  source: TensorSource,
  work: BitOptions,
  { by = "divergence", backend, windows, report, keeper, signal }: Measuring & {
    readonly report?: Reporter;
    readonly keeper?: LossKeeper | undefined;
    readonly signal?: AbortSignal;
  },
): Promise<Sensitivities> {
  const { base, groups, model } = work;
  const candidates = candidatesOf(work);
  const request = requestOf({ ...windows, seqLen: windows.windows[0]!.length });
  const text = recordedWindows(request, windows);
  const about = { by, model: await modelHash(source), text };
  const measurement = await measurementOf(work, { ...about, windows: windows.windows });
  const whole = await keeper?.find(measurement);
  if (whole) return whole;
  const how = { model, backend, input: windows, ...(report ? { report } : {}), signal };
  const known = await keeper?.load(measurement) ?? [];
  const keep = keeper && ((losses: readonly number[]) => keeper.save(measurement, losses));
  const all = candidates.flat();
  let found = known;
  if (by === "divergence") found = await divergences(source, all, { ...how, known, keep });
  else if (known.length < all.length) {
    // These are not known one after another.
    found = await gradientLosses(source, all, how);
    await keep?.(found);
  }
  let first = 0;
  const losses = candidates.map(({ length }) => found.slice(first, first += length));
  return sensitivitiesOf({ base, groups }, losses, { ...about, measurement });
}

/**
 * Choose the options that lose the least within a target: exactly, losses of groups taken to add
 * up.
 *
 * @throws {UnsupportedError} the target cannot be met; the sentence has the least that can.
 * @throws {RequestError} nothing need be quantized for it, or the sensitivities are of other
 * options.
 */
export function chooseBits(
  source: TensorSource,
  work: BitOptions,
  { sensitivities, target, device }: {
    readonly sensitivities: Sensitivities;
    readonly target: BitsTarget;
    readonly device: DeviceLimits;
  },
): ChosenBits {
  const { groups, others } = work;
  const losses = lossesOf(work, sensitivities);
  const items = groups.map(({ options }, i) =>
    options.map(({ bytes }, o) => ({ bytes, loss: losses[i]![o]! }))
  );
  const elements = sum(groups, ({ elements }) => elements);
  const most = "bytes" in target ? target.bytes : Math.floor(target.bitsPerWeight * elements / 8);
  const used = (chosen: readonly number[]): number => {
    const made = planned(source, work, { chosen, device });
    return "bytes" in target ? made.totalBytes : groupBytes(made, groups);
  };
  // Names of layers in config.json and headers take bytes too, which depend on the choice.
  let budget = "bytes" in target ? most - others : most;
  for (;;) {
    const found = solveKnapsack(items, budget);
    if (!found) {
      const least = used(items.map((options) => leastOf(options.map(({ bytes }) => bytes))));
      const [what, given] = "bytes" in target
        ? ["target-size", sizeToGive(least)]
        : ["target-bpw", String(Math.ceil(least * 8 / elements * 1000) / 1000)];
      const reason = `with these options the least is ${given}`;
      throw new UnsupportedError(
        `Cannot reach the target: ${reason}. Give \`${what}\` ${given} or more, or \`options\` of fewer bits.`,
        { what: what!, reason },
      );
    }
    const over = used(found.chosen) - most;
    if (over <= 0) return chosenOf(work, found.chosen, losses);
    budget = found.bytes - over;
  }
}

/**
 * Choose the options that take the fewest bytes and lose no more than a loss, losses of groups
 * taken to add up; where all lose more, those that lose the least.
 *
 * @returns undefined where nothing need be quantized.
 * @throws {RequestError} the sensitivities are of other options.
 */
export function chooseByLoss(
  work: BitOptions,
  sensitivities: Sensitivities,
  most: number,
): ChosenBits | undefined {
  const losses = lossesOf(work, sensitivities);
  // The same knapsack: what is short is loss, and what is to be small are bytes.
  const items = work.groups.map(({ options }, i) =>
    options.map(({ bytes }, o) => ({ bytes: losses[i]![o]!, loss: bytes }))
  );
  const chosen = solveKnapsack(items, most)?.chosen ?? losses.map(leastOf);
  const kept = chosenGroups(work.groups, chosen).every(({ option }) => isKept(option));
  return kept ? undefined : chosenOf(work, chosen, losses);
}

/**
 * The lecture's rule: bits = round(8 − 4·σ(s)), with s the standardised loss by the option in the
 * middle, and of the options that which has the nearest bits, the more if two are as near. As it
 * is written, what is more sensitive gets fewer bits; it is here to be compared.
 *
 * @throws {RequestError} the sensitivities are of other options.
 */
export function chooseBySigmoid(work: BitOptions, sensitivities: Sensitivities): ChosenBits {
  const losses = lossesOf(work, sensitivities);
  const quantizing = work.groups[0]!.options.map((option, o) => ({
    o,
    kept: isKept(option),
    bytes: sum(work.groups, ({ options }) => options[o]!.bytes),
  })).filter(({ kept }) => !kept).sort((a, b) => a.bytes - b.bytes);
  const middle = quantizing[Math.floor((quantizing.length - 1) / 2)]!.o;
  const chosen = sigmoidBits(losses.map((own) => own[middle]!)).map((bits, i) => {
    const own = work.groups[i]!.options.map(({ tasks: [task] }) => nominalBits(task?.scheme));
    const away = own.map((one) => Math.abs(one - bits) - one / 1000);
    return leastOf(away);
  });
  return chosenOf(work, chosen, losses);
}

/** round(8 − 4·σ(s)) of losses, s being each less their mean, over their standard deviation. */
export function sigmoidBits(losses: readonly number[]): number[] {
  const mean = sum(losses, (loss) => loss) / losses.length;
  const deviation = Math.sqrt(sum(losses, (loss) => (loss - mean) ** 2) / losses.length);
  return losses.map((loss) => {
    const s = deviation > 0 ? (loss - mean) / deviation : 0;
    return Math.round(8 - 4 / (1 + Math.exp(-s)));
  });
}

/** Where the least of some numbers is. */
function leastOf(numbers: readonly number[]): number {
  return numbers.indexOf(Math.min(...numbers));
}

function chosenGroups(groups: readonly Group[], chosen: readonly number[]): ChosenGroup[] {
  return groups.map((group, i) => ({ group, option: group.options[chosen[i]!]! }));
}

/** @throws {RequestError} nothing is quantized. */
function chosenOf(
  { base, groups }: BitOptions,
  numbers: readonly number[],
  losses: readonly (readonly number[])[],
): ChosenBits {
  const chosen = chosenGroups(groups, numbers);
  checkChosen(chosen);
  return {
    recipe: recipeOf(base, chosen),
    chosen,
    bitsPerWeight: sum(chosen, ({ option }) => option.bytes) * 8 /
      sum(groups, ({ elements }) => elements),
    loss: numbers.reduce((all, option, i) => all + losses[i]![option]!, 0),
  };
}

/** @throws {RequestError} nothing is quantized. */
function checkChosen(chosen: readonly ChosenGroup[]): void {
  if (chosen.some(({ option }) => !isKept(option))) return;
  throw new RequestError(
    `Cannot choose bits: with the target that is given every weight stays as it is (${KEPT}). ` +
      "Give a smaller target.",
  );
}

/** The plan of a choice, for its sizes. */
function planned(
  source: TensorSource,
  { base, groups }: BitOptions,
  { chosen, device }: { readonly chosen: readonly number[]; readonly device: DeviceLimits },
): Plan {
  const own = chosenGroups(groups, chosen);
  checkChosen(own);
  return plan(recipeOf(base, own), source, { device, calibration: SOME_WINDOWS });
}

/** Stored bytes of the groups' weights in a plan. */
function groupBytes({ units }: Plan, groups: readonly Group[]): number {
  const names = new Set(groups.flatMap(({ names }) => names));
  const tasks = units.flatMap(({ tasks }) => tasks).filter(({ name }) => names.has(name));
  return sum(tasks, ({ outputs }) => sum(outputs, byteLength));
}
