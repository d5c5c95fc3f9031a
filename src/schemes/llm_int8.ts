/**
 * LLM.int8() (Dettmers et al., arXiv 2208.07339) as bitsandbytes runs it: int8 weights with one
 * absmax a row; activations int8 per token, but for columns with an outlier, which are multiplied
 * in float with weight columns dequantized from int8.
 */
import type { Scope, Tensor } from "../backend.ts";
import { matmulColumns } from "../ops/matmul_columns.ts";
import { matmulInt8 } from "../ops/matmul_int8.ts";
import { matmulNt } from "../ops/matmul_nt.ts";
import { dequantizeInt } from "../ops/dequantize_int.ts";
import { narrow } from "../ops/narrow.ts";
import { outlierColumns } from "../ops/outlier_columns.ts";
import { quantizeRowsInt8 } from "../ops/quantize_rows_int8.ts";
import { rescaleInt8 } from "../ops/rescale_int8.ts";
import { widen, widened } from "../ops/widen.ts";
import type { LlmInt8Scheme, SchemeKind } from "../scheme.ts";
import { matrixShape } from "../tensor.ts";

/** `x` f32|bf16 rounded to f16[T, C], in `scope`; an f16 tensor as it is. */
function halved(x: Tensor, scope: Scope): Tensor {
  if (x.dtype === "f16") return x;
  const half = scope.alloc("f16", x.shape);
  scope.backend.run(narrow, { x: widened(x, scope), y: half });
  return half;
}

/** A `skip` that leaves out no column. */
function noColumns(columns: number, scope: Scope): Tensor {
  const skip = scope.alloc("u32", [columns]);
  scope.backend.write(skip, new Uint8Array(columns * 4));
  return skip;
}

/** One f32 on the device, as [1, 1]. */
function constant(value: number, scope: Scope): Tensor {
  const tensor = scope.alloc("f32", [1, 1]);
  scope.backend.write(tensor, new Uint8Array(Float32Array.of(value).buffer));
  return tensor;
}

/** See {@linkcode LlmInt8Scheme}. */
export const llmInt8: SchemeKind<LlmInt8Scheme> = {
  kinds: ["llm_int8"],
  label({ threshold }) {
    return `LLM.int8(), ${threshold > 0 ? `outliers from ${threshold}` : "no outliers"}`;
  },
  check({ threshold }, shape) {
    const [rows, columns] = matrixShape(shape);
    if (!Number.isFinite(threshold) || threshold < 0) {
      return `an outlier threshold of ${threshold} is not a number of at least 0`;
    }
    if (rows === 0 || columns === 0) return `a weight of shape [${shape}] has no elements`;
    return true;
  },
  rowStep() {
    return 1;
  },
  workBytes(_scheme, rows, columns) {
    // widened and halved weight, codes; absmax; the list of skipped columns
    return rows * columns * (4 + 2 + 1) + rows * 4 + columns * 4;
  },
  codeBytes(_scheme, rows, columns) {
    return rows * columns + rows * 4;
  },
  linearBytes(_scheme, shape, tokens) {
    const [rows, columns] = matrixShape(shape);
    // x in f16, widened again, and as int8; its absmax; skip and columns; i32 products
    return tokens * columns * (2 + 4 + 1) + tokens * 4 + columns * 8 + 4 + tokens * rows * 4;
  },
  // bitsandbytes rounds the weight to float16 before it quantizes (Int8Params._quantize); so do we.
  quantize(scheme, weight, { scope, search }) {
    if (search !== "minmax") {
      throw new RangeError("Cannot search scales for llm_int8: its scale is the row's absmax");
    }
    const [rows, columns] = matrixShape(weight.shape);
    const codes = scope.alloc("i8", [rows, columns]);
    const absmax = scope.alloc("f32", [rows, 1]);
    using scratch = scope.backend.scope();
    const skip = noColumns(columns, scratch);
    const half = halved(weight, scratch);
    scope.backend.run(quantizeRowsInt8, { x: half, skip, codes, absmax }, { threshold: 0 });
    return { scheme, rows, columns, tensors: { codes, absmax } };
  },
  dequantize({ rows, columns, tensors }, scope) {
    const { backend } = scope;
    const { codes, absmax } = tensors as Record<"codes" | "absmax", Tensor>;
    using scratch = backend.scope();
    // scale[R, 1] = absmax/127, as the product of absmax[R, 1] with a 1×1 matrix
    const scale = scratch.alloc("f32", [rows, 1]);
    backend.run(matmulNt, { x: absmax, w: constant(1 / 127, scratch), y: scale }, { column: 0 });
    const zero = scratch.alloc("i8", [rows, 1]);
    backend.write(zero, new Uint8Array(rows));
    const w = scope.alloc("f32", [rows, columns]);
    backend.run(dequantizeInt, { codes, scale, zero, w }, { tile_rows: 1, tile_columns: columns });
    return w;
  },
  /*
   * bitsandbytes' MatMul8bitLt.forward, whatever the model's dtype: activations are rounded to
   * float16 for finding outliers and for the int8 part (so they are here); the outlier columns are
   * taken from the unrounded activations. What differs: its CPU code multiplies by 6.200124e-05
   * where 1/127² is 6.200012e-05, which is 1.8e-5 of the int8 part.
   */
  linear({ scheme, rows, columns, tensors }, x, y, { scope, column }) {
    const { backend } = scope;
    const { threshold } = scheme as LlmInt8Scheme;
    const weight = tensors as Record<"codes" | "absmax", Tensor>;
    const tokens = x.shape[0]!;
    using scratch = backend.scope();
    const half = halved(x, scratch);
    const rounded = scratch.alloc("f32", x.shape);
    backend.run(widen, { x: half, y: rounded });
    const skip = scratch.alloc("u32", [columns]);
    const outliers = scratch.alloc("u32", [columns + 1]);
    backend.run(outlierColumns, { x: rounded, skip, columns: outliers }, { threshold });
    const codes = scratch.alloc("i8", x.shape);
    const absmax = scratch.alloc("f32", [tokens]);
    backend.run(quantizeRowsInt8, { x: half, skip, codes, absmax }, { threshold });
    const products = scratch.alloc("i32", [tokens, rows]);
    backend.run(matmulInt8, { x: codes, w: weight.codes, y: products });
    backend.run(rescaleInt8, { y: products, a: absmax, b: weight.absmax, z: y }, { column });
    backend.run(matmulColumns, {
      x,
      columns: outliers,
      w: weight.codes,
      absmax: weight.absmax,
      y,
    }, { column });
  },
};
