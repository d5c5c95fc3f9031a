/**
 * Integers of 2 to 8 bits with a scale, and for the affine grid a zero point, per tensor, channel,
 * group or 2-D block.
 */
import type { Scope, Tensor } from "../backend.ts";
import { ones, uploadParts } from "../linalg/channels.ts";
import { dequantizeInt } from "../ops/dequantize_int.ts";
import { matmulNt } from "../ops/matmul_nt.ts";
import { matmulPacked } from "../ops/matmul_packed.ts";
import { packBits } from "../ops/pack_bits.ts";
import { quantizeInt } from "../ops/quantize_int.ts";
import { scaleRows } from "../ops/scale_rows.ts";
import { searchParams } from "../ops/search_params.ts";
import type { IntScheme, Quantized, ScaleOptions, SchemeKind } from "../scheme.ts";
import { matrixShape } from "../tensor.ts";
import { activationsLabel, inputBytes, inputScale, roundInput } from "./inputs.ts";
import {
  allocParams,
  checkStrategy,
  GRID,
  minMaxParams,
  rowsScale,
  SCALE_DTYPE,
  scaleCount,
  strategyLabel,
  strategyRowStep,
  tileScalars,
} from "./tiles.ts";

const GRID_LABEL = { full: "symmetric", restricted: "symmetric, restricted", affine: "affine" };

/** `objective` as `search_params` numbers it. */
const OBJECTIVE = { mse: 0, frobenius: 1 };

/**
 * Whether `matmul_packed` reads this scheme: scales by row and group, and codes that do not cross
 * words.
 */
function isPackable({ bits, strategy }: IntScheme): boolean {
  return (strategy.kind === "channel" || strategy.kind === "group") && 32 % bits === 0;
}

function wordsPerRow(bits: number, columns: number): number {
  return Math.ceil(columns * bits / 32);
}

function findParams(
  scheme: IntScheme,
  weight: Tensor,
  { scope, search, importance, signed = false }: ScaleOptions,
): { scale: Tensor; zero: Tensor } {
  const { strategy, grid, bits, scaleDType } = scheme;
  if (search === "minmax") {
    return minMaxParams(weight, { strategy, grid, bits, scaleDType, scope });
  }
  const params = allocParams(strategy, weight.shape, scope);
  using scratch = scope.backend.scope();
  scope.backend.run(searchParams, {
    w: weight,
    importance: importance ??
      uploadParts([ones(matrixShape(weight.shape)[1])], scratch),
    ...params,
  }, {
    bits,
    grid: GRID[grid],
    ...tileScalars(strategy, weight.shape),
    scale_dtype: SCALE_DTYPE[scaleDType],
    objective: OBJECTIVE[search],
    signed: signed && grid === "full" ? 1 : 0,
  });
  return params;
}

/** The codes of weights by their scales, and those. */
function encode(
  scheme: IntScheme,
  weight: Tensor,
  { params, scope }: { params: Readonly<Record<string, Tensor>>; scope: Scope },
): Quantized {
  const [rows, columns] = matrixShape(weight.shape);
  const { scale, zero } = params as Record<"scale" | "zero", Tensor>;
  const codes = scope.alloc("i8", [rows, columns]);
  scope.backend.run(quantizeInt, { w: weight, scale, zero, codes }, {
    bits: scheme.bits,
    grid: GRID[scheme.grid],
    ...tileScalars(scheme.strategy, weight.shape),
  });
  return { scheme, rows, columns, tensors: { codes, scale, zero } };
}

function dequantize({ scheme, rows, columns, tensors }: Quantized, scope: Scope): Tensor {
  const w = scope.alloc("f32", [rows, columns]);
  const { codes, scale, zero } = tensors as Record<"codes" | "scale" | "zero", Tensor>;
  const { strategy } = scheme as IntScheme;
  scope.backend.run(
    dequantizeInt,
    { codes, scale, zero, w },
    tileScalars(strategy, [rows, columns]),
  );
  return w;
}

/** See {@linkcode IntScheme}. */
export const int: SchemeKind<IntScheme> = {
  kinds: ["int"],
  label({ bits, grid, strategy, activations }) {
    return `int${bits}, ${strategyLabel(strategy)}, ${GRID_LABEL[grid]}` +
      activationsLabel(activations);
  },
  check({ bits, strategy }, shape) {
    if (!Number.isInteger(bits) || bits < 2 || bits > 8) {
      return `integers have 2 to 8 bits here, not ${bits}`;
    }
    return checkStrategy(strategy, shape);
  },
  rowStep({ strategy }, shape) {
    return strategyRowStep(strategy, shape);
  },
  workBytes({ strategy }, rows, columns) {
    // codes; low and high while the scales are found; scale; zero
    return rows * columns + scaleCount(strategy, [rows, columns]) * (8 + 4 + 1);
  },
  codeBytes({ strategy }, rows, columns) {
    return rows * columns + scaleCount(strategy, [rows, columns]) * (4 + 1);
  },
  linearBytes(scheme, shape, tokens) {
    const [rows, columns] = matrixShape(shape);
    const weight = isPackable(scheme)
      ? rows * wordsPerRow(scheme.bits, columns) * 4
      : rows * columns * 4;
    return weight + inputBytes(scheme, shape, tokens);
  },
  quantize(scheme, weight, options) {
    const params = findParams(scheme, weight, options);
    return encode(scheme, weight, { params, scope: options.scope });
  },
  choice: {
    check: () => true,
    params: findParams,
    grid({ strategy, bits, grid }, params, { shape }) {
      const { scale, zero } = params as Record<"scale" | "zero", Tensor>;
      const scalars = { ...tileScalars(strategy, shape), kind: 0, bits, grid: GRID[grid] };
      return { scale, zero, scalars };
    },
    rowsScale: ({ strategy }) => rowsScale(strategy),
    scaleRows({ scheme, tensors: { scale } }, factor, { backend }) {
      const scale_dtype = SCALE_DTYPE[(scheme as IntScheme).scaleDType];
      backend.run(scaleRows, { factor, y: scale! }, { scale_dtype });
    },
    encode,
  },
  inputScale,
  dequantize,
  linear(quantized, x, y, { scope, column }) {
    const { backend } = scope;
    const scheme = quantized.scheme as IntScheme;
    const { rows, columns } = quantized;
    using scratch = backend.scope();
    const input = roundInput(x, quantized, scratch);
    if (isPackable(scheme)) {
      const { codes, scale, zero } = quantized.tensors as Record<
        "codes" | "scale" | "zero",
        Tensor
      >;
      const packed = scratch.alloc("u32", [rows, wordsPerRow(scheme.bits, columns)]);
      backend.run(packBits, { codes, packed }, { bits: scheme.bits });
      backend.run(matmulPacked, { x: input, w: packed, scale, zero, y }, {
        bits: scheme.bits,
        column,
      });
    } else {
      backend.run(matmulNt, { x: input, w: dequantize(quantized, scratch), y }, { column });
    }
  },
};
