/**
 * How compressed-tensors stores one weight: names, dtypes and shapes, and which rows may be packed
 * on their own.
 */
import type { Fp8Scheme, IntScheme, Scheme } from "../../scheme.ts";
import { scaleShape, tileOf } from "../../scheme.ts";
import type { Rows } from "../../source.ts";
import { matrixShape, type TensorInfo } from "../../tensor.ts";
import { strategyLabel } from "../../schemes/tiles.ts";
import { checkSource, moduleOf } from "../bytes.ts";
import { packedRows, wordStep } from "./zero_points.ts";

/** The schemes this format holds. */
export type Stored = IntScheme | Fp8Scheme;

/** Whether this format holds a scheme. */
export function isStored(scheme: Scheme): scheme is Stored {
  return scheme.kind === "int" || scheme.kind === "fp8";
}

/** How the library calls the way a weight is stored. */
export function storedFormat(
  scheme: Stored,
): "pack-quantized" | "int-quantized" | "float-quantized" | "naive-quantized" {
  if (scheme.kind === "fp8") {
    return scheme.activations === "none" ? "naive-quantized" : "float-quantized";
  }
  // What vLLM reads: bytes where the input is int8 too, of 4 bits as of 8; else words.
  const bytes = scheme.activations.startsWith("int8") && [4, 8].includes(scheme.bits);
  return bytes ? "int-quantized" : "pack-quantized";
}

/**
 * Bits of a code in the bitstream of `weight_packed`; undefined when codes are stored a byte each.
 */
export function packedBits(scheme: Stored): number | undefined {
  if (scheme.kind === "fp8") return undefined;
  return storedFormat(scheme) === "pack-quantized" ? scheme.bits : undefined;
}

/**
 * Bits of a zero point in the bitstream down the rows; undefined when there is none, or it is
 * stored as a byte.
 */
export function packedZeroBits(scheme: Stored): number | undefined {
  return zeroPoints(scheme) === "packed" ? packedBits(scheme) : undefined;
}

/** Whether zero points are stored, and how: the library packs them only where they form columns. */
export function zeroPoints(scheme: Stored): "none" | "packed" | "i8" {
  if (scheme.kind !== "int" || scheme.grid !== "affine") return "none";
  const { kind } = scheme.strategy;
  return packedBits(scheme) && (kind === "channel" || kind === "group") ? "packed" : "i8";
}

/** Whether a fixed scale of the input is stored beside the weight. */
export function hasInputScale({ activations }: Stored): boolean {
  return activations.endsWith("-static");
}

/** The stored shape of the scales: [1] per tensor, [A, B] else. */
function storedScaleShape({ strategy }: Stored, shape: readonly number[]): readonly number[] {
  return strategy.kind === "tensor" ? [1] : scaleShape(strategy, shape);
}

/** The stored tensors of a weight. */
export function layout({ name, shape }: TensorInfo, scheme: Stored): TensorInfo[] {
  const module = moduleOf(name)!;
  const [rows, columns] = matrixShape(shape);
  const scales = storedScaleShape(scheme, shape);
  const scale = { name: `${module}.weight_scale`, dtype: scheme.scaleDType, shape: scales };
  const zero: TensorInfo = { name: `${module}.weight_zero_point`, dtype: "i8", shape: scales };
  const zeroBits = packedZeroBits(scheme);
  const zeros: TensorInfo[] = zeroPoints(scheme) === "none" ? [] : !zeroBits ? [zero] : [{
    ...zero,
    dtype: "i32",
    shape: [packedRows(rows, zeroBits), scales[1]!],
  }];
  const inputs: TensorInfo[] = hasInputScale(scheme)
    ? [{ name: `${module}.input_scale`, dtype: scheme.scaleDType, shape: [1] }]
    : [];
  const bits = packedBits(scheme);
  if (!bits) {
    const dtype = scheme.kind === "int" ? "i8" : "f8_e4m3";
    return [{ name, dtype, shape }, scale, ...zeros, ...inputs];
  }
  const words = Math.ceil(columns * bits / 32);
  return [
    { name: `${module}.weight_packed`, dtype: "i32", shape: [rows, words] },
    scale,
    ...zeros,
    ...inputs,
    { name: `${module}.weight_shape`, dtype: "i64", shape: [shape.length] },
  ];
}

/** Why a weight cannot be stored so, or `true`. */
export function supports(scheme: Scheme, weight: TensorInfo): true | string {
  if (!isStored(scheme)) return `compressed-tensors holds int and fp8 weights, not ${scheme.kind}`;
  const { strategy, activations } = scheme;
  if (scheme.kind === "fp8" && activations.startsWith("int8")) {
    return "no runtime rounds the input of fp8 weights to int8; it can be measured (--format none)";
  }
  if (strategy.kind === "block") {
    const [rows, columns] = matrixShape(weight.shape);
    if (strategy.rows === 0 || strategy.columns === 0) {
      return "compressed-tensors has scales per tensor, channel, group or block of fixed sides, not " +
        `${strategyLabel(strategy)}; plain holds the values`;
    }
    if (rows % strategy.rows !== 0 || columns % strategy.columns !== 0) {
      return `blocks of ${strategy.rows}×${strategy.columns} do not tile ${rows}×${columns} weights, ` +
        "and readers of compressed-tensors infer the block from the number of scales";
    }
  }
  return checkSource("compressed-tensors", weight);
}

/** Rows that slices must be multiples of: words of packed zero points, and tiles, are not cut. */
export function rowStep(scheme: Stored, shape: readonly number[]): number {
  const [rows] = matrixShape(shape);
  const zeroBits = packedZeroBits(scheme);
  return Math.min(
    rows,
    Math.max(zeroBits ? wordStep(zeroBits) : 1, tileOf(scheme.strategy, shape)[0]),
  );
}

/** Which rows of the scales belong to rows of the weight. */
export function scaleRows(
  { strategy }: Stored,
  shape: readonly number[],
  { from, to }: Rows,
): Rows {
  const [tileRows] = tileOf(strategy, shape);
  return { from: Math.floor(from / tileRows), to: Math.ceil(to / tileRows) };
}
