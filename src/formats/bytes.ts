/** Bytes of stored tensors ↔ host arrays: what the formats share. Little-endian, as safetensors is. */
import type { ReadTensor } from "../format.ts";
import type { ScaleDType } from "../scheme.ts";
import { CheckpointError } from "../errors.ts";
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from "../number.ts";
import type { Rows } from "../source.ts";
import { byteLength, type Shape, type TensorInfo } from "../tensor.ts";

/** The bytes of a typed array. */
export function bytesOf(array: ArrayBufferView<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** Little-endian f32 bytes as numbers. */
export function floats(bytes: Uint8Array<ArrayBuffer>): Float32Array<ArrayBuffer> {
  return new Float32Array(bytes.slice().buffer);
}

/** f32 values, already rounded to `dtype`, as bytes of that dtype. */
export function narrowed(
  values: Float32Array<ArrayBuffer>,
  dtype: ScaleDType,
): Uint8Array<ArrayBuffer> {
  if (dtype === "f32") return bytesOf(values);
  const narrow = dtype === "bf16" ? f32ToBf16 : f32ToF16;
  // A loop: from() with a function takes ten times as long, and there is a scale for every few dozen weights.
  const halves = new Uint16Array(values.length);
  for (let i = 0; i < halves.length; i++) halves[i] = narrow(values[i]!);
  return bytesOf(halves);
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

/** @throws {CheckpointError} one of a weight's scales is NaN or infinite. */
export function checkFinite(scales: Float32Array, weight: string, dtype = "f32"): void {
  let sum = 0; // of x − x: 0 where x is finite, else NaN
  for (let i = 0; i < scales.length; i++) sum += scales[i]! - scales[i]!;
  if (sum === 0) return;
  throw new CheckpointError(
    `Cannot quantize "${weight}": it holds NaN, infinity, or values too large for a scale in ${dtype}`,
    { tensor: weight },
  );
}

/** Whether rows `[from, to)` are a whole weight, a slice that begins and ends at multiples of `step`, or one that ends it. */
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

/** `model.layers.0.mlp.up_proj` for `model.layers.0.mlp.up_proj.weight`; undefined when the name has another end. */
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
