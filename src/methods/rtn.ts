/** Round to nearest: each weight to the nearest value of its scheme. Needs no data. */
import type { Job, Method } from "../method.ts";
import type { OptionValues } from "../option.ts";
import type { ScaleSearch } from "../scheme.ts";
import { schemeKind } from "../schemes/mod.ts";

const SEARCHES: readonly ScaleSearch[] = ["minmax", "mse", "frobenius"];

function searchOf(options: OptionValues): ScaleSearch {
  const asked = options.scale ?? "minmax";
  const search = SEARCHES.find((name) => name === asked);
  if (!search) {
    throw new RangeError(`Cannot search scales by "${asked}": it must be ${SEARCHES.join(", ")}`);
  }
  return search;
}

/** Round to nearest with scales from the range of the weights, or searched for. */
export const rtn: Method = {
  name: "rtn",
  summary: "round to nearest; needs no data",
  options: [{
    name: "scale",
    type: "string",
    placeholder: "search",
    choices: SEARCHES,
    default: "minmax",
    help:
      "how int scales are found: minmax (the range), mse (80 shrunken ranges, error to the power 2.4), " +
      "frobenius (least squares)",
  }],
  needs: [],
  rowSeparable: true,
  supports(scheme, options = {}) {
    const search = searchOf(options);
    if (search !== "minmax" && scheme.kind !== "int") {
      return `scales of ${scheme.kind} are not searched for; only those of int are (scale: ${search})`;
    }
    return true;
  },
  quantize({ weight, scheme, options, scope }: Job) {
    return Promise.resolve(
      schemeKind(scheme).quantize(scheme, weight, { scope, search: searchOf(options) }),
    );
  },
};
