/**
 * What weights need of a calibration: which statistics of their inputs, and whether the original
 * model walks along. Pure.
 */
import type { Observer } from "../observer.ts";
import { gram } from "../observers/gram.ts";
import type { OptionValues } from "../option.ts";
import type { Recipe } from "../recipe.ts";
import type { Scheme } from "../scheme.ts";
import { schemeKind } from "../schemes/mod.ts";
import type { QuantizeDecision } from "./tasks.ts";

/** What decides what a weight needs. */
export type Choice = Pick<QuantizeDecision, "scheme" | "chain" | "rule">;

/** What methods must see of a weight's input before scales are moved. */
export function observersOf({ scheme, chain, rule: { options } }: Choice): readonly Observer[] {
  return [...chain.smoothing, chain.rounding].flatMap((method) => method.needs(scheme, options));
}

/**
 * What must be seen of a weight's input after scales were moved, for a scale that is fixed;
 * undefined where none is.
 */
export function inputObserver(scheme: Scheme, options: OptionValues): Observer | undefined {
  return schemeKind(scheme).inputScale?.observer(scheme, options);
}

/** Whether quantizing a weight takes statistics of its input. */
export function isCalibrated(choice: Choice): boolean {
  const { scheme, rule: { options } } = choice;
  return observersOf(choice).length > 0 || inputObserver(scheme, options) !== undefined;
}

/**
 * Whether the original's hidden states walk along in a calibration: where targets are to be moved,
 * and some method has the Gram matrix for it.
 */
export function propagates(
  { propagate }: Pick<Recipe, "propagate">,
  choices: readonly Choice[],
): boolean {
  return propagate && choices.some((choice) => observersOf(choice).includes(gram));
}
