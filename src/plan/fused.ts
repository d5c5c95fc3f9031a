/**
 * Layers that inference engines multiply as one must be quantized alike, or all be left alone:
 * engines refuse a set whose members differ (vLLM).
 */
import type { Model } from "../family.ts";
import { fusedPath } from "../formats/fused_layers.ts";
import { graphsOf } from "../graph/block_graph.ts";
import { modulePath } from "../recipe.ts";
import { refuse } from "./decide.ts";
import { inputObserver } from "./needs.ts";
import type { Decision, Decisions } from "./tasks.ts";

/**
 * Sets of weights that engines fuse: as the family says, or where none knows the model, by their
 * names.
 */
function fusedSets(model: Model | undefined, names: Iterable<string>): string[][] {
  const labelled = model
    ? graphsOf(model).flatMap(({ block, matrices }) =>
      matrices.map(({ name, parts }) => {
        const { fused } = parts[0]!.linear;
        return { name, key: fused && `${block.name} ${fused}` };
      })
    )
    : [...names].filter((name) => name.endsWith(".weight"))
      .map((name) => ({ name, key: fusedPath(modulePath(name)) }));
  const sets = Map.groupBy(labelled, ({ key }) => key);
  return [...sets].flatMap(([key, members]) =>
    key === undefined ? [] : [members.map(({ name }) => name)]
  );
}

/**
 * What must be equal of two weights that are fused: the scheme, and the scale of the input they
 * share if it is fixed.
 */
function keyOf(decision: Decision | undefined): string {
  if (decision?.kind !== "quantize") return "none";
  const { scheme, rule: { options } } = decision;
  const range = inputObserver(scheme, options) && [options.observer, options.percentile];
  return JSON.stringify([scheme, range]);
}

/**
 * Check that layers which engines fuse are quantized alike.
 *
 * @throws {UnsupportedError} two are not; both are named.
 */
export function checkFused(model: Model | undefined, decisions: Decisions): void {
  for (const [first, ...others] of fusedSets(model, decisions.keys())) {
    const key = keyOf(decisions.get(first!));
    const other = others.find((name) => keyOf(decisions.get(name)) !== key);
    if (other === undefined) continue;
    const set = [first!, ...others].map(modulePath);
    const names = set.length <= 4
      ? set.join(", ")
      : `${set.slice(0, 3).join(", ")} and ${set.length - 3} more`;
    refuse(
      other,
      `inference engines fuse ${names}, so they must share one scheme (and for static activations ` +
        `one observer) or all be left alone, and the rules give "${first}" another`,
    );
  }
}
