/**
 * A scheme is a set of representable values: how many bits, which grid, how many weights share a
 * scale, and what the runtime does to activations. It says nothing of how codes are chosen
 * (method.ts) or named and packed on disk (format.ts). The kinds are in schemes/.
 */
import type { Scope, Tensor } from "./backend.ts";
import type { Observer, Statistics } from "./observer.ts";
import type { OptionValues } from "./option.ts";
import { matrixShape, type Shape } from "./tensor.ts";

/**
 * Which weights share one scale: all of a tensor, a row, as many along a row, or rows by columns. A
 * block of 0 rows has all rows, one of 0 columns all columns: 0×1 is a scale for each column.
 */
export type Strategy =
  | { readonly kind: "tensor" }
  | { readonly kind: "channel" }
  | { readonly kind: "group"; readonly size: number }
  | { readonly kind: "block"; readonly rows: number; readonly columns: number };

/**
 * Rows and columns of the tiles of a weight that share one scale; tiles at the lower and right
 * edges may be smaller.
 */
export function tileOf(strategy: Strategy, shape: Shape): readonly [rows: number, columns: number] {
  const [rows, columns] = matrixShape(shape);
  switch (strategy.kind) {
    case "tensor":
      return [rows, columns];
    case "channel":
      return [1, columns];
    case "group":
      return [1, strategy.size];
    case "block":
      return [strategy.rows || rows, strategy.columns || columns];
  }
}

/** The shape `[A, B]` of a weight's scales: how many tiles it has down and across. */
export function scaleShape(strategy: Strategy, shape: Shape): readonly [a: number, b: number] {
  const [rows, columns] = matrixShape(shape);
  const [tileRows, tileColumns] = tileOf(strategy, shape);
  return [Math.ceil(rows / tileRows), Math.ceil(columns / tileColumns)];
}

/**
 * The fewest rows of a weight that hold whole blocks of its flattened elements; at most all of
 * them.
 */
export function blockRowStep(block: number, shape: Shape): number {
  const [rows, columns] = matrixShape(shape);
  let step = 1;
  while (step < rows && step * columns % block !== 0) step++;
  return step;
}

/**
 * What the runtime does to a linear's input: nothing; rounding to int8 or fp8 E4M3 by a scale that
 * each token has of its own; or (`static`) by one scale for all of them, symmetric, that
 * calibration fixed and the checkpoint holds.
 */
export type Activations = "none" | "int8" | "int8-static" | "fp8" | "fp8-static";

/** The dtype scales are stored in; scales are rounded to it before codes are chosen. */
export type ScaleDType = "f32" | "bf16" | "f16";

/**
 * Integers of 2 to 8 bits. Grids (reference: algorithms of GPTQ and compressed-tensors): `full` —
 * scale = 2·absmax/(2^b − 1), codes −2^(b−1) … 2^(b−1)−1 (the "7.5" grid); `restricted` — scale =
 * absmax/(2^(b−1) − 1), codes ±(2^(b−1)−1); `affine` — scale = (max − min)/(2^b − 1) over a range
 * that includes 0, with an integer zero point.
 */
export interface IntScheme {
  readonly kind: "int";
  readonly bits: 2 | 3 | 4 | 5 | 6 | 7 | 8;
  readonly grid: "full" | "restricted" | "affine";
  readonly strategy: Strategy;
  readonly scaleDType: ScaleDType;
  readonly activations: Activations;
}

/**
 * Sixteen fixed levels times an absmax per block of the flattened weight (bitsandbytes; QLoRA,
 * arXiv 2305.14314).
 */
export interface CodebookScheme {
  readonly kind: "nf4" | "fp4";
  /** Weights that share an absmax: 32 … 4096, a power of two. */
  readonly block: number;
  /** Store each absmax as an 8-bit code of a dynamic map, in blocks of 256. */
  readonly doubleQuant: boolean;
  /** What no loader does, and may be measured. */
  readonly activations?: "int8" | "fp8";
}

/**
 * Levels that are found for the weights at hand, of least squared error (Lloyd-Max; weighted
 * k-means where the importance of columns is known). Codes stand for levels as they are: there is
 * no scale.
 */
export interface LearnedCodebookScheme {
  readonly kind: "codebook";
  /** A table has 2^bits levels. */
  readonly bits: 2 | 3 | 4;
  /** Rows that share a table; 0: all of them. */
  readonly tableRows: number;
  /** The dtype levels are stored in; they are rounded to it before codes are chosen. */
  readonly tableDType: ScaleDType;
  /** What no loader does, and may be measured. */
  readonly activations?: "int8" | "fp8";
}

/** 8-bit floats E4M3 (OCP 8-bit floating point), scale = absmax/448. */
export interface Fp8Scheme {
  readonly kind: "fp8";
  readonly strategy: Strategy;
  readonly scaleDType: ScaleDType;
  readonly activations: Activations;
}

/**
 * LLM.int8() (arXiv 2208.07339): row-wise int8 weights; activations int8 per token but for outlier
 * columns, which stay float.
 */
export interface LlmInt8Scheme {
  readonly kind: "llm_int8";
  /**
   * A column of the activations is an outlier when one of its values reaches this magnitude; 0
   * means none is.
   */
  readonly threshold: number;
}

/** No quantization: another float dtype. */
export interface CastScheme {
  readonly kind: "cast";
  readonly dtype: "bf16" | "f16" | "f32";
}

export type Scheme =
  | IntScheme
  | CodebookScheme
  | LearnedCodebookScheme
  | Fp8Scheme
  | LlmInt8Scheme
  | CastScheme;

/** What a scheme does to the input of a linear. */
export function activationsOf(scheme: Scheme): Activations {
  return "activations" in scheme ? scheme.activations ?? "none" : "none";
}

/** Bits of a scheme's codes; null for a cast, which has none. */
export function codeBits(scheme: Scheme): number | null {
  return "bits" in scheme
    ? scheme.bits
    : { nf4: 4, fp4: 4, fp8: 8, llm_int8: 8, cast: null }[scheme.kind];
}

/**
 * A quantized weight on a device, before a format has packed it, or after it was unpacked. Tensors
 * by kind: int — `codes` i8[R, C], `scale` f32[A, B], `zero` i8[A, B] (0 where symmetric); nf4, fp4
 * — `codes` u8[ceil(N/2)], `absmax` f32[ceil(N/block)]; codebook — `codes` u8[R, C], `table`
 * f32[ceil(R/tableRows), 2^bits], ascending; fp8 — `codes` f8_e4m3[R, C], `scale` f32[A,
 * B]; both with static activations also `input_scale` f32[1, 1]; llm_int8 — `codes` i8[R, C],
 * `absmax` f32[R, 1]; cast — `weight`.
 */
export interface Quantized {
  readonly scheme: Scheme;
  readonly rows: number;
  readonly columns: number;
  readonly tensors: Readonly<Record<string, Tensor>>;
}

/**
 * How scales are found: min-max, the p-norm search with exponent 2.4 (GPTQ's "mse"), or min‖W −
 * S·Ŵ‖².
 */
export type ScaleSearch = "minmax" | "mse" | "frobenius";

/** How the scales of a weight are found, and where they are put. */
export interface ScaleOptions {
  /** The result's tensors belong to it. */
  readonly scope: Scope;
  readonly search: ScaleSearch;
  /**
   * f32[G, C]: how much an error in each column counts in a search, in each of G equal parts of the
   * rows; all alike when absent.
   */
  readonly importance?: Tensor;
  /**
   * A search may give symmetric int grids scales of either sign, so that the largest weight meets
   * the lowest code (−2^(b−1)).
   */
  readonly signed?: boolean;
}

/**
 * The values a weight's elements may take, as `gptq_block` reads them: tiles that share a scale,
 * and which grid is scaled.
 */
export interface ValueGrid {
  /** f32[A, B]; the absmax of a block for codebooks. */
  readonly scale: Tensor;
  /** i8[A, B] */
  readonly zero: Tensor;
  readonly scalars: {
    readonly tile_rows: number;
    readonly tile_columns: number;
    readonly kind: number;
    readonly bits: number;
    readonly grid: number;
  };
}

/** Scales first, then any method's choice among the values they allow, then codes. */
export interface ValueChoice<S extends Scheme = Scheme> {
  /** Why weights of this shape have no grid whose tiles lie within rows, or `true`. */
  check(scheme: S, shape: Shape): true | string;
  /** Scales of a weight f32[R, C]: tensors of a {@linkcode Quantized}. */
  params(scheme: S, weight: Tensor, options: ScaleOptions): Readonly<Record<string, Tensor>>;
  /** The grid of those scales for a weight of `shape`; what it allocates belongs to `scope`. */
  grid(
    scheme: S,
    params: Readonly<Record<string, Tensor>>,
    options: { readonly shape: Shape; readonly scope: Scope },
  ): ValueGrid;
  /** Whether rows of a weight can be multiplied after codes were chosen, and why not. */
  rowsScale(scheme: S): true | string;
  /** Multiply the rows that a weight's codes stand for by f32[R]; its scales change in place. */
  scaleRows(quantized: Quantized, factor: Tensor, scope: Scope): void;
  /** The codes of values f32[R, C] that lie on the grid. */
  encode(
    scheme: S,
    values: Tensor,
    options: { readonly params: Readonly<Record<string, Tensor>>; readonly scope: Scope },
  ): Quantized;
}

/** A scale for a linear's input that is fixed before the model runs. */
export interface InputScale<S extends Scheme = Scheme> {
  /**
   * What must be seen of the input as the linear gets it, after all scales were moved; undefined
   * where this scheme fixes nothing.
   */
  observer(scheme: S, options: OptionValues): Observer | undefined;
  /**
   * The scale by what was seen, rounded to the dtype it is stored in; infinite where the input
   * holds NaN or infinity.
   */
  find(scheme: S, statistics: Statistics, options: OptionValues): number;
}

/**
 * What is known about one kind of scheme. Implementations are in schemes/, listed in
 * schemes/mod.ts.
 */
export interface SchemeKind<S extends Scheme = Scheme> {
  readonly kinds: readonly S["kind"][];
  /** As a person would say it: `int4, groups of 64, symmetric`. */
  label(scheme: S): string;
  /** Why this weight cannot take this scheme (naming what would do), or `true`. */
  check(scheme: S, shape: Shape): true | string;
  /**
   * Rows that must be quantized together; a slice of a weight has a multiple of it, or all rows.
   */
  rowStep(scheme: S, shape: Shape): number;
  /**
   * Bytes of device memory that `quantize` of this many rows allocates, the weight itself not
   * counted.
   */
  workBytes(scheme: S, rows: number, columns: number): number;
  /**
   * Bytes of device memory of what `quantize` gives: codes, scales and what else belongs to them.
   */
  codeBytes(scheme: S, rows: number, columns: number): number;
  /**
   * Bytes of the runtime scratch that one `linear` of this weight allocates beside the quantized
   * tensors.
   */
  linearBytes(scheme: S, shape: Shape, tokens: number): number;
  /**
   * Round to nearest. `weight` is f32|bf16|f16[R, C]. Waits for the device only where the host must
   * see the weight.
   */
  quantize(scheme: S, weight: Tensor, options: ScaleOptions): Quantized | Promise<Quantized>;
  /**
   * What a method needs that chooses values itself (GPTQ); absent where there is nothing to choose.
   */
  readonly choice?: ValueChoice<S>;
  /**
   * How a scale for its input is found; absent where activations are never rounded by one that is
   * fixed.
   */
  readonly inputScale?: InputScale<S>;
  /** The values the codes stand for: f32[R, C], in `scope`. */
  dequantize(quantized: Quantized, scope: Scope): Tensor;
  /**
   * y[:, column … column+R) = the product the runtime would compute of x f32[T, C] and the weight;
   * y is f32[T, Y].
   */
  linear(
    quantized: Quantized,
    x: Tensor,
    y: Tensor,
    options: { readonly scope: Scope; readonly column: number },
  ): void;
}
