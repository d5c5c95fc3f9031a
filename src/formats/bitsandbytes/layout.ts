/** How bitsandbytes stores one weight: names, dtypes and shapes. */
import { DYNAMIC_MAP } from "../../ops/codebook.ts";
import type { CodebookScheme, LlmInt8Scheme, Scheme } from "../../scheme.ts";
import { elementCount, matrixShape, type TensorInfo } from "../../tensor.ts";
import { moduleOf } from "../bytes.ts";
import { quantStateLength } from "./quant_state.ts";

/** Absmax values that share a nested absmax. */
export const NESTED_BLOCK = 256;

/** The schemes this format holds. */
export type Quantizable = CodebookScheme | LlmInt8Scheme;

/** Whether a scheme has four bits. */
export function isCodebook(scheme: Scheme): scheme is CodebookScheme {
  return scheme.kind === "nf4" || scheme.kind === "fp4";
}

/** Whether this format holds a scheme. */
export function isQuantizable(scheme: Scheme): scheme is Quantizable {
  return isCodebook(scheme) || scheme.kind === "llm_int8";
}

/** How many absmax values a weight has. */
export function blockCount(scheme: CodebookScheme, shape: readonly number[]): number {
  return Math.ceil(elementCount(shape) / scheme.block);
}

/** The stored tensors of a weight. */
export function layout({ name, dtype, shape }: TensorInfo, scheme: Scheme): TensorInfo[] {
  if (scheme.kind === "llm_int8") {
    const module = moduleOf(name)!;
    return [
      { name, dtype: "i8", shape },
      { name: `${module}.SCB`, dtype: "f32", shape: [matrixShape(shape)[0]] },
      { name: `${module}.weight_format`, dtype: "u8", shape: [] },
    ];
  }
  const codebook = scheme as CodebookScheme;
  const blocks = blockCount(codebook, shape);
  const nested: TensorInfo[] = codebook.doubleQuant
    ? [
      {
        name: `${name}.nested_absmax`,
        dtype: "f32",
        shape: [Math.ceil(blocks / NESTED_BLOCK)],
      },
      { name: `${name}.nested_quant_map`, dtype: "f32", shape: [DYNAMIC_MAP.length] },
    ]
    : [];
  return [
    { name, dtype: "u8", shape: [Math.ceil(elementCount(shape) / 2), 1] },
    { name: `${name}.absmax`, dtype: codebook.doubleQuant ? "u8" : "f32", shape: [blocks] },
    ...nested,
    { name: `${name}.quant_map`, dtype: "f32", shape: [16] },
    {
      name: `${name}.quant_state.bitsandbytes__${codebook.kind}`,
      dtype: "u8",
      shape: [quantStateLength(codebook, { dtype, shape })],
    },
  ];
}
