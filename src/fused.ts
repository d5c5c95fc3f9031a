/**
 * Layers that inference engines multiply as one must be quantized alike, or all be left alone:
 * engines refuse a set whose members differ (vLLM).
 */
import { type Fate, inputObserver } from "./assign.ts";
import { UnsupportedError } from "./errors.ts";
import type { Model } from "./family.ts";
import { fusedPath } from "./formats/fused_layers.ts";
import { modulePath } from "./recipe.ts";

/**
 * Sets of weights that engines fuse: as the family says, or where none knows the model, by their
 * names.
 */
function fusedSets(model: Model | undefined, names: Iterable<string>): string[][] {
  const labelled = model
    ? model.blocks.flatMap(({ name, linears }) =>
      linears.map(({ weight, fused }) => ({ weight, key: fused && `${name} ${fused}` }))
    )
    : [...names].filter((name) => name.endsWith(".weight")).map((weight) => ({
      weight,
      key: fusedPath(modulePath(weight)),
    }));
  const sets = Map.groupBy(labelled, ({ key }) => key);
  return [...sets].flatMap(([key, members]) =>
    key === undefined ? [] : [members.map(({ weight }) => weight)]
  );
}

/**
 * What must be equal of two weights that are fused: the scheme, and the scale of the input they
 * share if it is fixed.
 */
function keyOf(fate: Fate | undefined): string {
  if (fate?.kind !== "quantize") return "none";
  const { scheme, rule: { options } } = fate;
  const range = inputObserver(scheme, options) && [options.observer, options.percentile];
  return JSON.stringify([scheme, range]);
}

/**
 * Check that layers which engines fuse are quantized alike.
 *
 * @throws {UnsupportedError} two are not; both are named.
 */
export function checkFused(model: Model | undefined, fates: ReadonlyMap<string, Fate>): void {
  for (const [first, ...others] of fusedSets(model, fates.keys())) {
    const other = others.find((weight) => keyOf(fates.get(first!)) !== keyOf(fates.get(weight)));
    if (other === undefined) continue;
    const set = [first!, ...others].map(modulePath);
    const names = set.length <= 4
      ? set.join(", ")
      : `${set.slice(0, 3).join(", ")} and ${set.length - 3} more`;
    const reason =
      `inference engines fuse ${names}, so they must share one scheme (and for static activations ` +
      `one observer) or all be left alone, and the rules give "${first}" another`;
    throw new UnsupportedError(`Cannot quantize "${other}": ${reason}.`, { what: other, reason });
  }
}
