/** Where weights stand in a model, by their names. */

/**
 * Where a weight stands, by its name: `model.layers.3.mlp.up_proj.weight` is `mlp.up_proj` number 3
 * of `model.layers`. Further numbers (experts) are not told apart.
 */
export function placeOf(
  name: string,
): { readonly stem: string; readonly depth: number | null; readonly rest: string } {
  const parts = name.replace(/(?<=.)\.weight$/, "").split(".");
  const isNumber = (part: string) => /^\d{1,9}$/.test(part);
  const at = parts.findIndex(isNumber);
  const rest = parts.slice(at + 1).map((part) => isNumber(part) ? "*" : part).join(".");
  if (at < 0 || rest === "") return { stem: "", depth: null, rest: parts.join(".") };
  return { stem: parts.slice(0, at).join("."), depth: Number(parts[at]), rest };
}

/** The number of a weight's layer, and its name without that: `mlp.up_proj`. */
export interface Place {
  readonly depth: number | null;
  readonly kind: string;
}

/** Where the weights of a model stand. */
export function placesOf(names: readonly string[]): Place[] {
  const places = names.map(placeOf);
  const stems = new Set(places.flatMap(({ depth, stem }) => depth === null ? [] : [stem]));
  // Layers of one stack need not say which; those of an encoder and a decoder do.
  return places.map(({ depth, stem, rest }) => ({
    depth,
    kind: depth === null || stems.size === 1 ? rest : `${stem}.*.${rest}`,
  }));
}
