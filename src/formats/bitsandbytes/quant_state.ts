/**
 * bitsandbytes' `quant_state`: a U8 tensor of JSON, spelled as Python's json.dumps spells it, with
 * what tensors cannot say. Its length must be known before quantizing, but holds a mean that is
 * not: spaces behind the closing brace fill the room left for the mean's digits (JSON allows them;
 * QuantState.from_dict was seen to read them).
 */
import { CheckpointError } from "../../errors.ts";
import type { CodebookScheme, ScaleDType } from "../../scheme.ts";
import { elementCount, type Shape, type TensorInfo } from "../../tensor.ts";
import { pythonFloat, torchName } from "../config_json.ts";

/** The most characters a positive f32 takes, widened to a double: `1.1754943508222875e-38`. */
const OFFSET_ROOM = 22;

const DTYPES: Readonly<Record<string, ScaleDType>> = {
  bfloat16: "bf16",
  float16: "f16",
  float32: "f32",
};

function spell(
  { kind, block }: CodebookScheme,
  { dtype, shape }: Pick<TensorInfo, "dtype" | "shape">,
  offset: string | undefined,
): string {
  const nested = offset === undefined
    ? ""
    : `, "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": ${offset}`;
  return `{"quant_type": "${kind}", "blocksize": ${block}, "dtype": "${torchName(dtype)}", ` +
    `"shape": [${shape.join(", ")}]${nested}}`;
}

/** Bytes of a weight's quant_state. */
export function quantStateLength(
  scheme: CodebookScheme,
  weight: Pick<TensorInfo, "dtype" | "shape">,
): number {
  const room = scheme.doubleQuant ? "0".repeat(OFFSET_ROOM) : undefined;
  return spell(scheme, weight, room).length;
}

/** The quant_state of a weight; `offset` is the mean of its absmax values when they are nested. */
export function quantStateBytes(
  scheme: CodebookScheme,
  weight: Pick<TensorInfo, "dtype" | "shape">,
  offset: number | undefined,
): Uint8Array<ArrayBuffer> {
  const text = spell(scheme, weight, offset === undefined ? undefined : pythonFloat(offset));
  return new TextEncoder().encode(text.padEnd(quantStateLength(scheme, weight)));
}

/** What a quant_state says. */
export interface QuantState {
  readonly kind: "nf4" | "fp4";
  readonly block: number;
  readonly dtype: ScaleDType;
  readonly shape: Shape;
  /** The mean that was taken off the absmax values; undefined when they are not nested. */
  readonly nestedOffset: number | undefined;
}

/** @throws {CheckpointError} the bytes are not a quant_state of NF4 or FP4. */
export function readQuantState(tensor: string, bytes: Uint8Array): QuantState {
  const fail = (what: string, cause?: unknown): never => {
    throw new CheckpointError(`Cannot read "${tensor}": ${what}`, { tensor, cause });
  };
  let state: Record<string, unknown>;
  try {
    state = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)) ?? {};
  } catch (cause) {
    if (!(cause instanceof SyntaxError || cause instanceof TypeError)) throw cause;
    return fail("it is not JSON in UTF-8", cause);
  }
  const { quant_type: kind, blocksize: block, shape, dtype, nested_blocksize } = state;
  if (kind !== "nf4" && kind !== "fp4") {
    return fail(`quant_type must be nf4 or fp4, it is ${JSON.stringify(kind)}`);
  }
  if (typeof block !== "number" || !Number.isSafeInteger(block) || block < 32 || block > 4096) {
    return fail(`blocksize must be 32 to 4096, it is ${JSON.stringify(block)}`);
  }
  const isSize = (size: unknown) => Number.isSafeInteger(size) && Number(size) > 0;
  if (
    !Array.isArray(shape) || shape.length < 2 || !shape.every(isSize) ||
    !Number.isSafeInteger(elementCount(shape))
  ) {
    return fail(`shape must be that of a matrix, it is ${JSON.stringify(shape)}`);
  }
  const before = DTYPES[String(dtype)];
  if (!before) {
    return fail(`dtype must be bfloat16, float16 or float32, it is ${JSON.stringify(dtype)}`);
  }
  const offset = state.nested_offset;
  if (offset !== undefined && (typeof offset !== "number" || nested_blocksize !== 256)) {
    return fail("nested statistics must have a number as nested_offset and blocks of 256");
  }
  return { kind, block, dtype: before, shape, nestedOffset: offset };
}
