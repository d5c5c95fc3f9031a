/** How rounding methods find the scales of int grids: one option for all of them. */
import type { Option, OptionValues } from "../option.ts";
import type { ScaleSearch } from "../scheme.ts";

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
    "how int scales are found: minmax (the range), mse (80 shrunken ranges, error to the power 2.4), frobenius (least squares), " +
    "hessian (least squares, each column by what its error costs); rtn takes minmax, after awq and in gptq hessian, unless given",
};

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
