/**
 * What a tensor is before one of its bytes is read: a dtype, a shape, a name. Nothing here
 * allocates.
 *
 * Dimension letters used in every shape comment of this project: `T` tokens, `C` input channels
 * (columns of a weight), `R` output rows of a weight, `G` group size, `A`×`B` tiles of a weight
 * that share one scale, `N` elements, `V` vocabulary.
 */

/** Bits per element of every dtype of the safetensors format (its `Dtype` enum, version 0.8.0). */
export const BITS = {
  bool: 8,
  f4: 4,
  f6_e2m3: 6,
  f6_e3m2: 6,
  u8: 8,
  i8: 8,
  f8_e5m2: 8,
  f8_e4m3: 8,
  f8_e8m0: 8,
  f8_e4m3fnuz: 8,
  f8_e5m2fnuz: 8,
  i16: 16,
  u16: 16,
  f16: 16,
  bf16: 16,
  i32: 32,
  u32: 32,
  f32: 32,
  c64: 64,
  f64: 64,
  i64: 64,
  u64: 64,
} as const;

/**
 * The name of an element type, in lower case; safetensors headers hold the same names in capitals.
 */
export type DType = keyof typeof BITS;

/** A float dtype that weights have. */
export type FloatDType = "f32" | "bf16" | "f16";

/** Whether a dtype is one that weights have. */
export function isFloat(dtype: string): dtype is FloatDType {
  return dtype === "f32" || dtype === "bf16" || dtype === "f16";
}

/** Sizes of the dimensions, outermost first; `[]` is a scalar. */
export type Shape = readonly number[];

/** What is known about a tensor from a header alone. */
export interface TensorInfo {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: Shape;
}

/** The number of elements: the product of the sizes, 1 for a scalar. */
export function elementCount(shape: Shape): number {
  return shape.reduce((n, size) => n * size, 1);
}

/** Size in bytes of a tensor, densely packed and row-major. */
export function byteLength({ dtype, shape }: Pick<TensorInfo, "dtype" | "shape">): number {
  return elementCount(shape) * BITS[dtype] / 8;
}

/**
 * A weight seen as a matrix: `[R, C]` with `R` the first dimension and `C` the product of the
 * others (a convolution's `[O, I·kh·kw]`).
 */
export function matrixShape(shape: Shape): readonly [rows: number, columns: number] {
  const [rows = 1, ...rest] = shape;
  return [rows, elementCount(rest)];
}

/** Add up a number of each item. */
export function sum<T>(items: readonly T[], value: (item: T) => number): number {
  return items.reduce((total, item) => total + value(item), 0);
}
