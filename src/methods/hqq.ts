/**
 * HQQ (Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023):
 * codes to the nearest, but with scales and zero points that minimize a norm of the error below 1
 * (p = 0.7), so that the many small weights count and a few outliers do not. The weights alone
 * decide.
 *
 * The original holds the scale and moves a zero point that is any real number, stored as a float.
 * The formats here store whole zero points, or none for symmetric int, and its step for them, the
 * mean error in units of the scale, rounds to no step at all. So here the scale moves, by least
 * squares to the same target, and the zero points beside that of the range are tried. The constants
 * are the original's, and like there they are for weights as they are: in most language models
 * these are so small that hardly an error is ever an outlier. (Errors in units of the scale, which
 * do not depend on that, were tried: one or two percent more divergence.) The least-squares search
 * of `--scale frobenius` looks at more scales and finds better ones, on the sample model.
 *
 * At 3 bits and below the original's defaults are known to collapse, so there each tile is compared
 * with min-max and with the least-squares search, and whichever has the least squared error is
 * taken, nearly always that of the search. Refused: other schemes than int.
 */
import type { Scope, Tensor } from "../backend.ts";
import type { RoundingMethod } from "../method.ts";
import { scaleColumns } from "../linalg/channels.ts";
import { hqqParams } from "../ops/hqq_params.ts";
import type { IntScheme } from "../scheme.ts";
import { schemeKind } from "../schemes/mod.ts";
import { isSigned, UNSIGNED } from "./scale_option.ts";
import { allocParams, GRID, SCALE_DTYPE, tileScalars } from "../schemes/tiles.ts";

/** The most bits at which HQQ is compared with other ways. */
const GUARDED_BITS = 3;

/** See the head of this file. */
export const hqq: RoundingMethod = {
  kind: "rounding",
  name: "hqq",
  options: [UNSIGNED],
  needs: () => [],
  supports: (scheme) =>
    scheme.kind === "int" || `hqq finds scales and zero points of int, not of ${scheme.kind}`,
  open({ scheme, options }) {
    const { choice } = schemeKind(scheme);
    return {
      remarks: {},
      round({ weight, scales, scope }) {
        using scratch = scope.backend.scope();
        const scaled = scales ? scaleColumns(weight, scales, scratch) : weight;
        const signed = isSigned(options);
        const params = findParams(scheme as IntScheme, scaled, { signed, scope });
        return { quantized: choice!.encode(scheme, scaled, { params, scope }) };
      },
    };
  },
};

/** Scale f32[A, B] and zero point i8[A, B] of every tile, in `scope`. */
function findParams(
  scheme: IntScheme,
  weight: Tensor,
  { signed, scope }: { readonly signed: boolean; readonly scope: Scope },
): Readonly<Record<string, Tensor>> {
  const { strategy, bits, grid, scaleDType } = scheme;
  using scratch = scope.backend.scope();
  const guard = bits <= GUARDED_BITS;
  const rival = guard
    ? schemeKind(scheme).choice!.params(scheme, weight, {
      scope: scratch,
      search: "frobenius",
      signed,
    })
    : allocParams(strategy, weight.shape, scratch);
  const params = allocParams(strategy, weight.shape, scope);
  scope.backend.run(hqqParams, {
    w: weight,
    rival_scale: rival.scale!,
    rival_zero: rival.zero!,
    ...params,
  }, {
    bits,
    grid: GRID[grid],
    ...tileScalars(strategy, weight.shape),
    scale_dtype: SCALE_DTYPE[scaleDType],
    guard: guard ? 1 : 0,
  });
  return params;
}
