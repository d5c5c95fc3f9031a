/**
 * Bits and methods for a promise: the recipe of the fewest bytes whose measured distance from the
 * original is below a bound, to a confidence. Recipes lie along the knapsack's line from the fewest
 * bytes to the most; each try is a whole quantization, measured on windows of which some steer to
 * the next try and the others judge (report/certificate.ts). Refuses texts that cannot judge.
 */
import { type BitOptions, chooseByLoss, type ChosenBits } from "./bits.ts";
import { ruleWith } from "./bits/recipe.ts";
import type { Sensitivities } from "./bits/sensitivities.ts";
import { RequestError } from "./errors.ts";
import { chainNamed } from "./methods/mod.ts";
import { type Recipe, recipeDocument } from "./recipe.ts";
import type { Limit, Reporter } from "./report.ts";
import {
  type Bounds,
  FEWEST_WINDOWS,
  limitsOf,
  ofWindows,
  steers,
  useOf,
  type WindowScores,
} from "./report/certificate.ts";
import type { PreparedWindows } from "./windows.ts";

/** One recipe that was measured. */
export interface Try {
  readonly chosen: ChosenBits;
  /** Of the rule for all weights. */
  readonly method: string;
  /** By the windows that judge. */
  readonly limits: readonly Limit[];
  /** The share of the bounds that it uses up, by the windows that steer. */
  readonly steering: number;
}

/** What a search came to. */
export interface Guarantee {
  /** The fewest bytes that keep the bounds; where none does, what is nearest to them. */
  readonly best: Try;
  readonly holds: boolean;
  readonly tried: readonly Try[];
}

/** How to search. */
export interface GuaranteeOptions {
  readonly sensitivities: Sensitivities;
  readonly bounds: Bounds;
  /** Methods of the rule for all weights, `auto` among them; each is tried once, then the best. */
  readonly methods: readonly string[];
  /** Most recipes that are tried, for which limits are corrected. */
  readonly maxTries: number;
  /**
   * Quantize by a recipe and measure it on all windows that were drawn, the same ones in the same
   * order each time: see `windowScores`.
   */
  measure(recipe: Recipe): Promise<WindowScores>;
  readonly report?: Reporter;
}

/** Tokens in a row that make a text known again. */
const KNOWN_TOKENS = 32;

/**
 * Check that windows can judge what was calibrated on others.
 *
 * @throws {RequestError} they are too few, or hold text of the calibration.
 */
export function checkWindows(
  drawn: PreparedWindows,
  seen: readonly Pick<PreparedWindows, "windows">[],
): void {
  const judging = drawn.windows.filter((_, window) => !steers(window)).length;
  if (judging < FEWEST_WINDOWS) {
    throw new RequestError(
      `Cannot guarantee anything by ${drawn.windows.length} windows of ${drawn.seqLen} tokens: ` +
        `with a quarter of them to steer, ${judging} are left to judge, and ${FEWEST_WINDOWS} are ` +
        "the least. Give a longer text (`corpus`), or more or shorter windows " +
        "(`eval-num-samples`, `eval-seq-len`).",
    );
  }
  const known = new Set<string>();
  const length = Math.min(
    KNOWN_TOKENS,
    drawn.seqLen,
    ...seen.map(({ windows }) => windows[0]!.length),
  );
  const key = (window: Uint32Array, from: number) => window.subarray(from, from + length).join();
  for (const window of seen.flatMap(({ windows }) => windows)) {
    for (let at = 0; at + length <= window.length; at += length) known.add(key(window, at));
  }
  const repeated = drawn.windows.filter((window) => {
    for (let at = 0; at + length <= window.length; at++) {
      if (known.has(key(window, at))) return true;
    }
    return false;
  });
  if (repeated.length === 0) return;
  throw new RequestError(
    `Cannot guarantee anything by this text: ${repeated.length} of its ${drawn.windows.length} ` +
      "windows hold text that was calibrated on, or that bits were chosen by. Measure on another " +
      "text (`corpus`), or calibrate on another (`calibration`).",
  );
}

/**
 * Search for the fewest bytes that keep the bounds.
 *
 * One try is for each method; those after it go to where a line through what the steering windows
 * have told, loss against measured, both as logarithms, meets the bounds. If none of those that
 * come near is accepted by the other windows, the tries that are left, one at least, keep a
 * distance of a tenth, of two tenths, ….
 *
 * @throws {RequestError} nothing need be quantized, or the sensitivities are of other options.
 * @throws what `measure` throws.
 */
export async function guarantee(
  work: BitOptions,
  { sensitivities, bounds, methods, maxTries, measure, report = () => {} }: GuaranteeOptions,
): Promise<Guarantee> {
  const tried: Try[] = [];
  const attempt = async (method: string, most: number): Promise<boolean> => {
    const chosen = chooseByLoss(withMethod(work, method), sensitivities, most);
    if (!chosen || tried.some((one) => isSame(one.chosen.recipe, chosen.recipe))) return false;
    const scores = await measure(chosen.recipe);
    const judging = ofWindows(scores, (window) => !steers(window));
    const limits = limitsOf(judging, bounds, { tries: maxTries });
    const steering = useOf(limitsOf(ofWindows(scores, steers), bounds, {
      tries: maxTries,
      windows: judging.kl_divergence.length,
    }));
    tried.push({ chosen, method, limits, steering });
    report({
      type: "tried",
      number: tried.length,
      of: maxTries,
      method,
      bitsPerWeight: chosen.bitsPerWeight,
      limits,
    });
    return true;
  };
  const first = firstLoss(work, sensitivities, bounds);
  for (const method of methods.slice(0, maxTries)) await attempt(method, first);
  if (tried.length === 0) return refuseNothing();
  const { method } = least(tried, ({ steering }) => steering);
  const own = () => tried.filter((one) => one.method === method);
  while (tried.length < maxTries - 1 && !isClose(own())) {
    if (await attempt(method, lossFor(own(), 1))) continue;
    // That was tried before, for the knapsack has no recipe there: halfway there may be one.
    const middle = halfway(own());
    if (middle === undefined || !await attempt(method, middle)) break;
  }
  for (let use = 0.9; tried.length < maxTries && use > 0 && !tried.some(isKept); use -= 0.1) {
    await attempt(method, lossFor(own(), use));
  }
  const kept = tried.filter(isKept);
  return {
    best: kept.length > 0
      ? least(kept, ({ chosen }) => chosen.bitsPerWeight)
      : least(tried, ({ limits }) => useOf(limits)),
    holds: kept.length > 0,
    tried,
  };
}

/**
 * The recipe that a search would try first.
 *
 * @throws {RequestError} nothing need be quantized, or the sensitivities are of other options.
 */
export function firstTry(
  work: BitOptions,
  { sensitivities, bounds, methods: [method] }: Pick<
    GuaranteeOptions,
    "sensitivities" | "bounds" | "methods"
  >,
): ChosenBits {
  const most = firstLoss(work, sensitivities, bounds);
  return chooseByLoss(withMethod(work, method!), sensitivities, most) ?? refuseNothing();
}

/** @throws {RequestError} always: nothing is quantized. */
function refuseNothing(): never {
  throw new RequestError(
    "Cannot search: within the bound no weight may be quantized by these `options`. Give a larger " +
      "bound, or `options` of more bits.",
  );
}

/** Options whose rule for all weights has another method. */
function withMethod(work: BitOptions, method: string): BitOptions {
  const { rules } = work.base;
  const usual = rules.at(-1)!;
  if (method === usual.method) return work;
  const own = method === "auto"
    ? { ...usual, method }
    : ruleWith(usual, usual.scheme, chainNamed(method).name);
  return { ...work, base: { ...work.base, rules: [...rules.slice(0, -1), own] } };
}

function isSame(one: Recipe, other: Recipe): boolean {
  return JSON.stringify(recipeDocument(one)) === JSON.stringify(recipeDocument(other));
}

function isKept({ limits }: Try): boolean {
  return limits.every(({ holds }) => holds);
}

/**
 * The sum of losses to begin with. Divergences are of linears that are rounded to nearest, one at a
 * time; a calibrated method comes to about a third of their sum. GPTQ's losses are of no unit that
 * a bound has, so half of what the least bits lose.
 */
function firstLoss(work: BitOptions, { by, groups }: Sensitivities, bounds: Bounds): number {
  const { kl_divergence: kl = Infinity, perplexity_increase: increase = Infinity } = bounds;
  if (by === "divergence") return 3 * Math.min(kl, Math.log1p(increase));
  const names = new Set(work.groups.map(({ names }) => names.join()));
  return groups.filter(({ weights }) => names.has(weights.join()))
    .reduce((all, { losses }) => all + Math.max(...Object.values(losses)), 0) / 2;
}

/** How much further than what was measured a try may go, as a factor of the loss. */
const FARTHEST = 32;

/** What was tried, as logarithms, nearest to a share of the bounds on both sides. */
function around(tried: readonly Try[], goal: number) {
  // Within what has a logarithm: losses may round to 0, and perplexities fall.
  const within = (value: number, least: number) => Math.min(Math.max(value, least), 1 / least);
  const points = tried.map(({ chosen, steering }) => ({
    loss: Math.log(within(chosen.loss, 1e-12)),
    use: Math.log(within(steering, 1e-3)),
  }));
  return {
    below: points.filter(({ use }) => use <= goal).toSorted((a, b) => b.loss - a.loss)[0],
    above: points.filter(({ use }) => use > goal).toSorted((a, b) => a.loss - b.loss)[0],
  };
}

/** The sum of losses at which a share of the bounds is used up, by what was tried. */
function lossFor(tried: readonly Try[], use: number): number {
  const goal = Math.log(use);
  const { below, above } = around(tried, goal);
  if (below && above && below.loss < above.loss) {
    const way = (goal - below.use) / (above.use - below.use);
    return Math.exp(below.loss + way * (above.loss - below.loss));
  }
  const near = (below ?? above)!;
  const step = Math.max(-Math.log(FARTHEST), Math.min(Math.log(FARTHEST), goal - near.use));
  return Math.exp(near.loss + step);
}

/** The sum of losses between what keeps the bounds and what does not, if both were tried. */
function halfway(tried: readonly Try[]): number | undefined {
  const { below, above } = around(tried, 0);
  return below && above && Math.exp((below.loss + above.loss) / 2);
}

/** The share of the bytes by which a search may miss the fewest. */
const CLOSE = 0.003;

/** Whether a try that keeps the bounds is hardly larger than one that does not. */
function isClose(tried: readonly Try[]): boolean {
  const sizes = (keeps: boolean) =>
    tried.filter(({ steering }) => steering < 1 === keeps)
      .map(({ chosen }) => chosen.bitsPerWeight);
  return Math.min(...sizes(true)) - Math.max(...sizes(false)) <
    CLOSE * Math.min(...sizes(true));
}

function least<T>(all: readonly T[], of: (one: T) => number): T {
  return all.reduce((best, one) => of(one) < of(best) ? one : best);
}
