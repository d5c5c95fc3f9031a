/**
 * Exact conversions between f32 and the narrower floats, and the rounding every code is chosen
 * with. Numbers go in and out as JS numbers that are f32 values; narrow floats are raw bits.
 */
import { CheckpointError, quote } from "./errors.ts";
import type { DType, TensorInfo } from "./tensor.ts";

const f32 = new Float32Array(1);
const bits = new Uint32Array(f32.buffer);
const f16 = new Float16Array(1);
const f16Bits = new Uint16Array(f16.buffer);

/**
 * From here on a float64 has no bits below one: moved up here, IEEE addition itself rounds half to
 * even.
 */
const ROUNDER = 2 ** 52;

/** Nearest integer, ties to even; NaN and infinities stay what they are. */
export function roundHalfEven(x: number): number {
  if (!(Math.abs(x) < ROUNDER)) return x;
  return x < 0 ? (x - ROUNDER) + ROUNDER : (x + ROUNDER) - ROUNDER;
}

/** The value of bfloat16 bits: the upper half of an f32. */
export function bf16ToF32(half: number): number {
  bits[0] = half << 16;
  return f32[0]!;
}

/** The bits of the bfloat16 nearest to an f32, ties to even; NaN stays NaN. */
export function f32ToBf16(x: number): number {
  f32[0] = x;
  const word = bits[0]!;
  if (x !== x) return (word >>> 16) | 0x40;
  return ((word + 0x7fff + ((word >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The value of IEEE binary16 bits. */
export function f16ToF32(half: number): number {
  f16Bits[0] = half;
  return f16[0]!;
}

/** The bits of the binary16 nearest to an f32, ties to even; past 65504 infinity, NaN stays NaN. */
export function f32ToF16(x: number): number {
  f16[0] = x;
  return f16Bits[0]!;
}

/** The largest finite value of E4M3. */
export const E4M3_MAX = 448;

/**
 * The value of 8-bit float E4M3 bits ("OCP 8-bit Floating Point": bias 7, no infinities, 0x7f and
 * 0xff are NaN).
 */
export function e4m3ToF32(code: number): number {
  return E4M3_VALUES[code]!;
}

const E4M3_VALUES = Float32Array.from({ length: 256 }, (_, code) => {
  const sign = code & 0x80 ? -1 : 1;
  const exponent = (code >> 3) & 15;
  const mantissa = code & 7;
  if (exponent === 15 && mantissa === 7) return NaN;
  return sign * (exponent ? (1 + mantissa / 8) * 2 ** (exponent - 7) : mantissa * 2 ** -9);
});

/**
 * The bits of the E4M3 value nearest to an f32, ties to even; past ±448 (infinities too) ±448, NaN
 * stays NaN.
 */
export function f32ToE4m3(x: number): number {
  f32[0] = x;
  const word = bits[0]!;
  const sign = (word >>> 24) & 0x80;
  if (x !== x) return sign | 0x7f;
  const size = Math.abs(x);
  if (size >= E4M3_MAX) return sign | 0x7e;
  // Below the smallest normal the steps are 2^-9. A mantissa that rounds up to 8 carries into the
  // exponent by itself.
  if (size < 2 ** -6) return sign | roundHalfEven(size * 512);
  const exponent = ((word >>> 23) & 255) - 127;
  const mantissa = roundHalfEven((size / 2 ** exponent - 1) * 8);
  return sign | (((exponent + 7) << 3) + mantissa);
}

/** Every value of a tensor of narrow floats as f32. */
export function widenAll(
  dtype: "bf16" | "f16" | "f8_e4m3",
  raw: Uint16Array | Uint8Array,
): Float32Array<ArrayBuffer> {
  const decode = { bf16: bf16ToF32, f16: f16ToF32, f8_e4m3: e4m3ToF32 }[dtype];
  const values = new Float32Array(raw.length);
  // `Float32Array.from` takes twenty times as long.
  for (let i = 0; i < raw.length; i++) values[i] = decode(raw[i]!);
  return values;
}

/**
 * The first element that is NaN, of a tensor of floats given as bytes; −1 if none is, and of other
 * dtypes. All that is copied passes here.
 */
export function firstNaN(dtype: DType, bytes: Uint8Array): number {
  const { buffer, byteOffset, length } = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  if (dtype === "f32") {
    const values = new Float32Array(buffer, byteOffset, length / 4);
    for (let i = 0; i < values.length; i++) if (values[i] !== values[i]) return i;
    return -1;
  }
  if (dtype !== "bf16" && dtype !== "f16") return -1;
  const infinity = dtype === "bf16" ? 0x7f80 : 0x7c00;
  // Two at once; the last of an odd number by itself.
  const pairs = new Uint32Array(buffer, byteOffset, length >> 2);
  const high = infinity << 16;
  let at = 0;
  for (; at < pairs.length; at++) {
    const pair = pairs[at]!;
    if ((pair & 0x7fff) > infinity || (pair & 0x7fff0000) > high) break;
  }
  const halves = new Uint16Array(buffer, byteOffset, length / 2);
  const found = halves.subarray(2 * at, 2 * at + 2).findIndex((half) => (half & 0x7fff) > infinity);
  return found === -1 ? -1 : 2 * at + found;
}

/** The f32 nearest to `x` among the values of a dtype. */
export function roundTo(dtype: "f32" | "bf16" | "f16", x: number): number {
  if (dtype === "bf16") return bf16ToF32(f32ToBf16(x));
  if (dtype === "f16") return f16ToF32(f32ToF16(x));
  return Math.fround(x);
}

/** The values of a tensor of floats, from its bytes. */
export function floatsFrom(
  dtype: "f32" | "bf16" | "f16",
  bytes: Uint8Array,
): Float32Array<ArrayBuffer> {
  const { buffer } = bytes.slice();
  return dtype === "f32" ? new Float32Array(buffer) : widenAll(dtype, new Uint16Array(buffer));
}

/** The bytes of a tensor of floats, each rounded to the nearest of its dtype. */
export function bytesFrom(
  dtype: "f32" | "bf16" | "f16",
  values: Float32Array,
): Uint8Array<ArrayBuffer> {
  if (dtype === "f32") return new Uint8Array(values.slice().buffer);
  const encode = dtype === "bf16" ? f32ToBf16 : f32ToF16;
  const halves = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) halves[i] = encode(values[i]!);
  return new Uint8Array(halves.buffer);
}

/**
 * Look at bytes of a tensor as they pass. Infinity is let through: masks hold it.
 *
 * @param doing What is being done, for the message: `copy`.
 * @throws {CheckpointError} an element is NaN; the sentence has the tensor's name.
 */
export function refuseNaN(
  { name, dtype }: Pick<TensorInfo, "name" | "dtype">,
  bytes: Uint8Array,
  doing: string,
): void {
  if (firstNaN(dtype, bytes) === -1) return;
  throw new CheckpointError(
    `Cannot ${doing} ${quote(name)}: it holds NaN. The checkpoint is damaged, or was saved by a ` +
      "training that failed; get it again.",
    { tensor: name },
  );
}
