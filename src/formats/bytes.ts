/**
 * Bytes of stored tensors ↔ host arrays: what the formats share. Little-endian, as safetensors is.
 */
import type { Scope, Tensor } from "../backend.ts";
import type { ReadTensor, StoredWeight } from "../format.ts";
import { activationsOf, type ScaleDType, type Scheme } from "../scheme.ts";
import { CheckpointError } from "../errors.ts";
import { bf16ToF32, f16ToF32 } from "../number.ts";
import { narrow } from "../ops/narrow.ts";
import type { Rows } from "../source.ts";
import { byteLength, type Shape, type TensorInfo } from "../tensor.ts";

/** The bytes of a typed array. */
export function bytesOf(array: ArrayBufferView<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** Bytes as words; a view of them where they are aligned. */
export function wordsOf(bytes: Uint8Array<ArrayBuffer>): Uint32Array<ArrayBuffer> {
  const { buffer, byteOffset, length } = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  return new Uint32Array(buffer, byteOffset, length / 4);
}

/** Bytes as halves of words; a view of them where they are aligned. */
export function halvesOf(bytes: Uint8Array<ArrayBuffer>): Uint16Array<ArrayBuffer> {
  const { buffer, byteOffset, length } = bytes.byteOffset % 2 === 0 ? bytes : bytes.slice();
  return new Uint16Array(buffer, byteOffset, length / 2);
}

/** Little-endian f32 bytes as numbers. */
export function floats(bytes: Uint8Array<ArrayBuffer>): Float32Array<ArrayBuffer> {
  return new Float32Array(bytes.slice().buffer);
}

/**
 * Scales f32[A, B] on a device, already rounded to `dtype`, as a tensor of that dtype in `scope`.
 */
export function narrowed(scale: Tensor, dtype: ScaleDType, scope: Scope): Tensor {
  if (dtype === "f32") return scale;
  const y = scope.alloc(dtype, scale.shape);
  scope.backend.run(narrow, { x: scale, y });
  return y;
}

/** Bytes of a float dtype as f32 values. */
export function widened(
  bytes: Uint8Array<ArrayBuffer>,
  dtype: ScaleDType,
): Float32Array<ArrayBuffer> {
  if (dtype === "f32") return floats(bytes);
  const widen = dtype === "bf16" ? bf16ToF32 : f16ToF32;
  const halves = new Uint16Array(bytes.slice().buffer);
  const values = new Float32Array(halves.length);
  for (let i = 0; i < values.length; i++) values[i] = widen(halves[i]!);
  return values;
}

/** Whether scales may be stored in a dtype. */
export function isScaleDType(dtype: string): dtype is ScaleDType {
  return dtype === "f32" || dtype === "bf16" || dtype === "f16";
}

/**
 * The dtype of a stored tensor of scales; f16 where it is missing, of which {@linkcode findParts}
 * tells.
 *
 * @throws {CheckpointError} scales cannot have it.
 */
export function scaleDTypeOf(name: string, tensors: ReadonlyMap<string, TensorInfo>): ScaleDType {
  const { dtype } = tensors.get(name) ?? { dtype: "f16" };
  if (isScaleDType(dtype)) return dtype;
  throw new CheckpointError(`Cannot read "${name}": scales are ${dtype}, not f32, bf16 or f16`, {
    tensor: name,
  });
}

/** Why a format of weights alone does not hold a scheme that rounds activations; or `true`. */
export function checkFloatInputs(format: string, scheme: Scheme): true | string {
  const activations = activationsOf(scheme);
  return activations === "none" ||
    `loaders of ${format} leave activations in float, and these are ${activations}; what that would ` +
      "bring can be measured (--format none)";
}

/** The greatest f32. */
const GREATEST = (2 - 2 ** -23) * 2 ** 127;

/** The bits of the greatest scale whose product with `code` is finite in f32. */
function greatestScale(dtype: ScaleDType, code: number): number {
  if (dtype === "f16") return 0x7bff;
  const scale = new Float32Array([GREATEST / code]);
  const bits = new Uint32Array(scale.buffer)[0]! - (scale[0]! * code > GREATEST ? 1 : 0);
  return dtype === "f32" ? bits : bits >>> 16;
}

/**
 * Check the bytes of a weight's scales, stored as `dtype`.
 *
 * @param options.range What they had to fit, for the message.
 * @param options.code The greatest that a scale is multiplied with, without its sign.
 * @throws {CheckpointError} one of them is NaN or infinite, or makes values that are.
 */
export function checkFinite(
  scales: Uint8Array<ArrayBuffer>,
  dtype: ScaleDType,
  weight: string,
  { range = dtype, code = 1 }: { readonly range?: string; readonly code?: number } = {},
): void {
  const most = greatestScale(dtype, code);
  const words = dtype === "f32" ? new Uint32Array(scales.buffer) : new Uint16Array(scales.buffer);
  const magnitude = dtype === "f32" ? 0x7fffffff : 0x7fff;
  for (let i = 0; i < words.length; i++) {
    if ((words[i]! & magnitude) <= most) continue;
    throw new CheckpointError(
      `Cannot quantize "${weight}": it holds NaN, infinity, or values too large for a scale in ${range}`,
      { tensor: weight },
    );
  }
}

/** Why a value of a weight is not finite in a dtype, for a sentence. */
const PAST = {
  f16: "infinity or a value past 65504; bf16 has room for it",
  bf16: "infinity or a value past 3.39e38; f32 has room for it",
  f32: "infinity",
} as const;

/**
 * Check a tensor that was rounded to another dtype, given as its bytes.
 *
 * @throws {CheckpointError} a value is infinite, or became so when it was rounded.
 */
export function checkCast(
  bytes: Uint8Array<ArrayBuffer>,
  dtype: ScaleDType,
  weight: string,
): void {
  const size = dtype === "f32" ? 4 : 2;
  const Words = dtype === "f32" ? Uint32Array : Uint16Array;
  const words = new Words(bytes.buffer, bytes.byteOffset, bytes.length / size);
  const magnitude = dtype === "f32" ? 0x7fffffff : 0x7fff;
  const most = greatestScale(dtype, 1);
  let infinite = 0;
  for (let i = 0; i < words.length; i++) infinite += Number((words[i]! & magnitude) > most);
  if (infinite === 0) return;
  throw new CheckpointError(`Cannot cast "${weight}" to ${dtype}: it holds ${PAST[dtype]}`, {
    tensor: weight,
  });
}

/**
 * Whether rows `[from, to)` are a whole weight, a slice that begins and ends at multiples of
 * `step`, or one that ends it.
 */
export function checkRows(
  { from, to }: Rows,
  { name, rows, step }: { readonly name: string; readonly rows: number; readonly step: number },
): void {
  const fits = from >= 0 && from < to && to <= rows && from % step === 0 &&
    (to === rows || to % step === 0);
  if (fits) return;
  throw new RangeError(
    `Cannot take rows ${from} to ${to} of "${name}": slices of its ${rows} rows must be multiples of ${step}`,
  );
}

/**
 * Read a stored tensor, or rows of it, and check that all of it came.
 *
 * @throws {CheckpointError} more or fewer bytes came than the header promised.
 */
export async function readPart(
  part: TensorInfo,
  read: ReadTensor,
  rows?: Rows,
): Promise<Uint8Array<ArrayBuffer>> {
  const shape: Shape = rows ? [rows.to - rows.from, ...part.shape.slice(1)] : part.shape;
  const bytes = await read(part.name, rows);
  const want = byteLength({ dtype: part.dtype, shape });
  if (bytes.length !== want) {
    throw new CheckpointError(
      `Cannot read "${part.name}": expected ${want} bytes of ${part.dtype}[${shape}], got ${bytes.length}`,
      { tensor: part.name },
    );
  }
  return bytes;
}

/**
 * A part of a stored weight by the end of its name.
 *
 * @throws {CheckpointError} it has no such part.
 */
export function partOf({ name, parts }: StoredWeight, suffix: string): TensorInfo {
  const part = parts.find((part) => part.name === `${moduleOf(name)}.${suffix}`);
  if (part) return part;
  throw new CheckpointError(`Cannot read "${name}": its ${suffix} is missing`, { tensor: name });
}

/**
 * The stored tensors of a weight, checked against what a format lays out for it.
 *
 * @throws {CheckpointError} one is missing, or has another dtype or shape.
 */
export function findParts(
  weight: string,
  layout: readonly TensorInfo[],
  tensors: ReadonlyMap<string, TensorInfo>,
): TensorInfo[] {
  return layout.map((want) => {
    const found = tensors.get(want.name);
    if (found?.dtype === want.dtype && String(found.shape) === String(want.shape)) return found;
    throw new CheckpointError(
      `Cannot read "${weight}": "${want.name}" must be ${want.dtype}[${want.shape}], ` +
        (found ? `it is ${found.dtype}[${found.shape}]` : "it is missing"),
      { tensor: want.name },
    );
  });
}

/**
 * `model.layers.0.mlp.up_proj` for `model.layers.0.mlp.up_proj.weight`; undefined when the name has
 * another end.
 */
export function moduleOf(weight: string): string | undefined {
  return weight.endsWith(".weight") ? weight.slice(0, -".weight".length) : undefined;
}

/** Whether quantized weights have this dtype before, or the reason why not. */
export function checkSource(format: string, { name, dtype, shape }: TensorInfo): true | string {
  if (!moduleOf(name)) {
    return `${format} names stored tensors after a module's weight, and "${name}" does not end in ".weight"`;
  }
  if (!isScaleDType(dtype)) return `"${name}" is ${dtype}; f32, bf16 and f16 weights are quantized`;
  if (shape.length < 2) return `"${name}" has shape [${shape}], not rows and columns`;
  return true;
}
