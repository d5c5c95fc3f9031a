/**
 * 8-bit floats E4M3 with scale = absmax/448 per tensor, channel or 2-D block; activations fp8 per
 * token or left alone.
 */
import type { Scope, Tensor } from "../backend.ts";
import { dequantizeFp8 } from "../ops/dequantize_fp8.ts";
import { quantizeFp8 } from "../ops/quantize_fp8.ts";
import { scaleRows } from "../ops/scale_rows.ts";
import type { Fp8Scheme, Quantized, ScaleOptions, SchemeKind } from "../scheme.ts";
import { elementCount, matrixShape } from "../tensor.ts";
import { activationsLabel, inputBytes, inputScale, multiplyValues } from "./inputs.ts";
import {
  checkStrategy,
  GRID,
  minMaxParams,
  noZeroPoints,
  rowsScale,
  SCALE_DTYPE,
  scaleCount,
  strategyLabel,
  strategyRowStep,
  tileScalars,
} from "./tiles.ts";

function dequantize({ scheme, rows, columns, tensors }: Quantized, scope: Scope): Tensor {
  const w = scope.alloc("f32", [rows, columns]);
  const { codes, scale } = tensors as Record<"codes" | "scale", Tensor>;
  const { strategy } = scheme as Fp8Scheme;
  scope.backend.run(dequantizeFp8, { codes, scale, w }, tileScalars(strategy, [rows, columns]));
  return w;
}

function findParams(
  { strategy, scaleDType }: Fp8Scheme,
  weight: Tensor,
  { scope, search }: ScaleOptions,
): { scale: Tensor } {
  if (search !== "minmax") {
    throw new RangeError("Cannot search scales for fp8: its scale is absmax/448");
  }
  const { scale } = minMaxParams(weight, { strategy, grid: "fp8", bits: 8, scaleDType, scope });
  return { scale };
}

/** The codes of weights by their scales, and those. */
function encode(
  scheme: Fp8Scheme,
  weight: Tensor,
  { params, scope }: { params: Readonly<Record<string, Tensor>>; scope: Scope },
): Quantized {
  const [rows, columns] = matrixShape(weight.shape);
  const scale = params.scale!;
  const codes = scope.alloc("f8_e4m3", [rows, columns]);
  const tiles = tileScalars(scheme.strategy, weight.shape);
  scope.backend.run(quantizeFp8, { w: weight, scale, codes }, tiles);
  return { scheme, rows, columns, tensors: { codes, scale } };
}

/** See {@linkcode Fp8Scheme}. */
export const fp8: SchemeKind<Fp8Scheme> = {
  kinds: ["fp8"],
  label({ strategy, activations }) {
    return `fp8 E4M3, ${strategyLabel(strategy)}${activationsLabel(activations)}`;
  },
  check({ strategy }, shape) {
    return checkStrategy(strategy, shape);
  },
  rowStep({ strategy }, shape) {
    return strategyRowStep(strategy, shape);
  },
  workBytes({ strategy }, rows, columns) {
    return rows * columns + scaleCount(strategy, [rows, columns]) * (8 + 4 + 1);
  },
  codeBytes({ strategy }, rows, columns) {
    return rows * columns + scaleCount(strategy, [rows, columns]) * 4;
  },
  linearBytes(scheme, shape, tokens) {
    return elementCount(shape) * 4 + inputBytes(scheme, shape, tokens);
  },
  quantize(scheme, weight, options) {
    const params = findParams(scheme, weight, options);
    return encode(scheme, weight, { params, scope: options.scope });
  },
  choice: {
    check: () => true,
    params: findParams,
    grid({ strategy }, params, { shape, scope }) {
      return {
        scale: params.scale!,
        zero: noZeroPoints(strategy, shape, scope),
        scalars: { ...tileScalars(strategy, shape), kind: 1, bits: 8, grid: GRID.fp8 },
      };
    },
    rowsScale: ({ strategy }) => rowsScale(strategy),
    scaleRows({ scheme, tensors: { scale } }, factor, { backend }) {
      const scale_dtype = SCALE_DTYPE[(scheme as Fp8Scheme).scaleDType];
      backend.run(scaleRows, { factor, y: scale! }, { scale_dtype });
    },
    encode,
  },
  inputScale,
  dequantize,
  linear: (quantized, x, y, at) => multiplyValues(quantized, x, y, { dequantize, ...at }),
};
