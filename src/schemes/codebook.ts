/**
 * NF4 and FP4: sixteen fixed levels times an absmax per block of the flattened weight, as
 * bitsandbytes has them.
 */
import type { Scope, Tensor } from "../backend.ts";
import { dequantize4bit } from "../ops/dequantize_4bit.ts";
import { quantize4bit } from "../ops/quantize_4bit.ts";
import { scaleRows } from "../ops/scale_rows.ts";
import {
  blockRowStep,
  type CodebookScheme,
  type Quantized,
  type ScaleOptions,
  type SchemeKind,
} from "../scheme.ts";
import { elementCount, matrixShape, type Shape } from "../tensor.ts";
import { activationsLabel, inputBytes, multiplyValues } from "./inputs.ts";
import { noZeroPoints } from "./tiles.ts";

/** Block sizes bitsandbytes takes. */
const BLOCKS: readonly number[] = [32, 64, 128, 256, 512, 1024, 2048, 4096];

/** `kind` as `quantize_4bit` numbers it. */
const KIND = { nf4: 0, fp4: 1 };

function opScalars({ block, kind }: CodebookScheme): { block: number; kind: number } {
  return { block, kind: KIND[kind] };
}

function dequantize({ scheme, rows, columns, tensors }: Quantized, scope: Scope): Tensor {
  const w = scope.alloc("f32", [rows, columns]);
  const { codes, absmax } = tensors as Record<"codes" | "absmax", Tensor>;
  scope.backend.run(dequantize4bit, { codes, absmax, w }, opScalars(scheme as CodebookScheme));
  return w;
}

/** Codes of a weight, by its own absmax of each block or one that is given. */
function encode(
  scheme: CodebookScheme,
  weight: Tensor,
  { scope, absmax: given }: { scope: Scope; absmax?: Tensor },
): Quantized {
  const { block } = scheme;
  const [rows, columns] = matrixShape(weight.shape);
  const count = rows * columns;
  const codes = scope.alloc("u8", [Math.ceil(count / 2)]);
  const blocks = columns % block === 0 ? [rows, columns / block] : [Math.ceil(count / block)];
  const absmax = given ?? scope.alloc("f32", blocks);
  const scalars = { ...opScalars(scheme), given: given ? 1 : 0 };
  scope.backend.run(quantize4bit, { w: weight, codes, absmax }, scalars);
  return { scheme, rows, columns, tensors: { codes, absmax } };
}

function quantize(
  scheme: CodebookScheme,
  weight: Tensor,
  { scope, search }: ScaleOptions,
): Quantized {
  if (search !== "minmax") {
    throw new RangeError(`Cannot search scales for ${scheme.kind}: its scale is the absmax`);
  }
  return encode(scheme, weight, { scope });
}

/** Whether every block lies within a row. */
function blocksWithinRows({ block }: CodebookScheme, shape: Shape): true | string {
  const [, columns] = matrixShape(shape);
  return columns % block === 0 ||
    `blocks of ${block} run over the ends of rows of ${columns} columns; a block size that divides them would do`;
}

function codeBytes({ block }: CodebookScheme, rows: number, columns: number): number {
  const count = rows * columns;
  return Math.ceil(count / 2) + Math.ceil(count / block) * 4;
}

/** See {@linkcode CodebookScheme}. */
export const codebook: SchemeKind<CodebookScheme> = {
  kinds: ["nf4", "fp4"],
  label({ kind, block, doubleQuant, ...scheme }) {
    return `${kind}, blocks of ${block}${doubleQuant ? ", double quantization" : ""}` +
      activationsLabel(scheme.activations ?? "none");
  },
  check({ block }, shape) {
    if (!BLOCKS.includes(block)) {
      return `block size ${block} is none of ${BLOCKS.join(", ")}, which bitsandbytes takes`;
    }
    if (elementCount(shape) === 0) return `a weight of shape [${shape}] has no elements`;
    return true;
  },
  // Blocks run on over the ends of rows: a slice must begin where a block does, which is also where
  // a byte does.
  rowStep({ block }, shape) {
    return blockRowStep(block, shape);
  },
  workBytes: codeBytes,
  codeBytes,
  linearBytes(scheme, shape, tokens) {
    return elementCount(shape) * 4 + inputBytes(scheme, shape, tokens);
  },
  quantize,
  choice: {
    check: blocksWithinRows,
    params(scheme, weight, { scope, search }) {
      using scratch = scope.backend.scope();
      const { absmax } = quantize(scheme, weight, { scope: scratch, search }).tensors;
      return { absmax: scope.adopt(scratch.release(absmax!)) };
    },
    grid({ block, kind }, params, { shape, scope }) {
      return {
        scale: params.absmax!,
        zero: noZeroPoints({ kind: "group", size: block }, shape, scope),
        scalars: { tile_rows: 1, tile_columns: block, kind: 2 + KIND[kind], bits: 4, grid: 0 },
      };
    },
    // Where codes are chosen one by one, every block lies within a row.
    rowsScale: () => true,
    scaleRows({ tensors: { absmax } }, factor, { backend }) {
      backend.run(scaleRows, { factor, y: absmax! }, { scale_dtype: 0 });
    },
    encode: (scheme, values, { params, scope }) =>
      encode(scheme, values, { scope, absmax: params.absmax! }),
  },
  dequantize,
  linear: (quantized, x, y, at) => multiplyValues(quantized, x, y, { dequantize, ...at }),
};
