/**
 * Round to nearest: each weight to the nearest value of its scheme. Needs no data, unless scales
 * are to be searched for by what errors cost.
 */
import type { Observer } from "../observer.ts";
import { gram } from "../observers/gram.ts";
import type { RoundingMethod } from "../method.ts";
import { schemeKind } from "../schemes/mod.ts";
import { ones, scaleColumns, uploadParts } from "../linalg/channels.ts";
import { isSearched, isSigned, SCALE, searchOf, UNSIGNED, usualSearch } from "./scale_option.ts";

/** Round to nearest with scales from the range of the weights, or searched for. */
export const rtn: RoundingMethod = {
  kind: "rounding",
  name: "rtn",
  options: [SCALE, UNSIGNED],
  needs: (scheme, options): readonly Observer[] =>
    searchOf(options, usualSearch(scheme)).weighted ? [gram] : [],
  supports(scheme, options) {
    const { search } = searchOf(options, usualSearch(scheme));
    if (scheme.kind === "codebook" && search !== "frobenius") {
      return `the levels of a codebook are those of least squares: scale must be frobenius or hessian, not ${options.scale}`;
    }
    if (search !== "minmax" && !isSearched(scheme)) {
      return `scales of ${scheme.kind} are not searched for; only those of int are (scale: ${options.scale})`;
    }
    return true;
  },
  open({ scheme, options, statistics }) {
    // Where a method before it has seen inputs, there is no reason not to use them.
    const seen = statistics?.has(gram) && isSearched(scheme);
    const { search, weighted } = searchOf(options, seen ? "hessian" : usualSearch(scheme));
    const squares = weighted && statistics ? statistics.of(gram).diagonal : undefined;
    return {
      remarks: {},
      async round({ weight, scales, scope }) {
        using scratch = scope.backend.scope();
        const [, count = 0] = weight.shape;
        const scaled = scales ? scaleColumns(weight, scales, scratch) : weight;
        // Σ x² of each channel after it was divided by its scale.
        const importance = squares && (scales ?? [ones(count)])
          .map((part) => part.map((scale, c) => squares[c]! / scale ** 2));
        const quantized = await schemeKind(scheme).quantize(scheme, scaled, {
          scope,
          search,
          signed: isSigned(options),
          ...(importance ? { importance: uploadParts(importance, scratch) } : {}),
        });
        return { quantized };
      },
    };
  },
};
