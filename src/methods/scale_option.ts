/** How rounding methods find the scales of int grids: one option for all of them. */
import type { Option, OptionValues } from "../option.ts";
import type { ScaleSearch, Scheme } from "../scheme.ts";

/** The values of `--scale`. */
const SEARCHES = ["minmax", "mse", "frobenius", "hessian"] as const;
type Search = typeof SEARCHES[number];

/** `--scale` */
export const SCALE: Option = {
  name: "scale",
  type: "string",
  placeholder: "search",
  choices: SEARCHES,
  help:
    "how int scales are found: minmax (the range), mse (error to the power 2.4), frobenius (least squares: within 0.5 % of " +
    "the best scale and zero point that can be stored), hessian (the same, each column by what its error costs); " +
    "levels of CB2 to CB4 by frobenius (Lloyd-Max) or hessian (weighted k-means); " +
    "rtn takes minmax, after awq and in gptq hessian, unless given",
};

/** `--unsigned-scales` */
export const UNSIGNED: Option = {
  name: "unsigned-scales",
  type: "boolean",
  help:
    "only positive scales for symmetric int; else a search may give a group's largest weight the lowest code, which has no opposite",
};

/** Whether a search may give scales of either sign. */
export function isSigned(options: OptionValues): boolean {
  return options[UNSIGNED.name] !== true;
}

/** What `--scale` means for rounding to nearest where it is not given and no inputs were seen. */
export function usualSearch({ kind }: Scheme): Search {
  return kind === "codebook" ? "frobenius" : "minmax";
}

/** Whether scales, or levels, of a kind of scheme are looked for by what errors cost. */
export function isSearched({ kind }: Scheme): boolean {
  return kind === "int" || kind === "codebook";
}

/** How scales are searched for, and whether columns count by what their errors cost. */
export function searchOf(
  options: OptionValues,
  usual: Search,
): { readonly search: ScaleSearch; readonly weighted: boolean } {
  const asked = options.scale ?? usual;
  const search = SEARCHES.find((name) => name === asked);
  if (!search) {
    throw new RangeError(`Cannot search scales by "${asked}": it must be ${SEARCHES.join(", ")}`);
  }
  return search === "hessian"
    ? { search: "frobenius", weighted: true }
    : { search, weighted: false };
}
