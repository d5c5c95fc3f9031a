/**
 * What weights need of a calibration: which statistics of their inputs, and whether the original
 * model walks along. Pure.
 */
import { methodsOf } from "../methods/mod.ts";
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
  return methodsOf(chain).flatMap((method) => method.needs(scheme, options));
}

/**
 * What must be seen of a weight's input after scales were moved, for a scale that is fixed;
 * undefined where none is.
 */
export function inputObserver(scheme: Scheme, options: OptionValues): Observer | undefined {
  return schemeKind(scheme).inputScale?.observer(scheme, options);
}

/** Whether quantizing a weight takes windows that come to its block. */
export function isCalibrated(choice: Choice): boolean {
  const { scheme, rule: { options } } = choice;
  return isTuned(choice) || observersOf(choice).length > 0 ||
    inputObserver(scheme, options) !== undefined;
}

/** Whether a weight is trained with its block. */
export function isTuned({ chain }: Choice): boolean {
  return chain.tuning !== undefined;
}

/**
 * Whether the original's hidden states walk along in a calibration: where targets are to be moved
 * and some method has the Gram matrix for it, or blocks are trained for what the original's give.
 */
export function propagates(
  { propagate }: Pick<Recipe, "propagate">,
  choices: readonly Choice[],
): boolean {
  return propagate &&
    choices.some((choice) => isTuned(choice) || observersOf(choice).includes(gram));
}
