/** Deterministic inputs for the conformance cases: seeded numbers, and tensors made of them. */
import type { Scope } from "../../src/backend.ts";
import { f32ToBf16, f32ToE4m3, f32ToF16 } from "../../src/number.ts";
import type { DeviceDType } from "../../src/op.ts";
import { uniform } from "../../src/corpora/random.ts";
import type { Quantized } from "../../src/scheme.ts";
import { type Values, valuesOf } from "../../src/sampling.ts";
import { elementCount, type Shape } from "../../src/tensor.ts";

export { uniform, type Values, valuesOf };

/** A tensor to be: its bytes, and its elements as numbers. */
export interface Given {
  readonly dtype: DeviceDType;
  readonly shape: Shape;
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** An output whose first contents must not matter: the suite fills it with 0xff. */
  readonly blank?: true;
}

/** `count` draws of a normal distribution (Box–Muller), as f32. */
export function gaussian(count: number, seed: number, scale = 1): Float32Array<ArrayBuffer> {
  const next = uniform(seed);
  const values = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    const radius = scale * Math.sqrt(-2 * Math.log(1 - next()));
    const angle = 2 * Math.PI * next();
    values[i] = radius * Math.cos(angle);
    if (i + 1 < count) values[i + 1] = radius * Math.sin(angle);
  }
  return values;
}

/** The dtypes that weights come in. */
export const FLOATS = ["f32", "bf16", "f16"] as const;

/** A tensor of floats with these values, rounded to the dtype. */
export function floats(
  dtype: "f32" | "bf16" | "f16" | "f8_e4m3",
  shape: Shape,
  values: ArrayLike<number>,
): Given {
  const array = dtype === "f32"
    ? Float32Array.from(values)
    : dtype === "f8_e4m3"
    ? Uint8Array.from(values, f32ToE4m3)
    : Uint16Array.from(values, dtype === "bf16" ? f32ToBf16 : f32ToF16);
  return { dtype, shape, bytes: new Uint8Array(array.buffer) };
}

/** A tensor of normally distributed floats. */
export function normal(
  dtype: "f32" | "bf16" | "f16" | "f8_e4m3",
  shape: Shape,
  { seed = 1, scale = 1 }: { seed?: number; scale?: number } = {},
): Given {
  return floats(dtype, shape, gaussian(elementCount(shape), seed, scale));
}

/** A tensor of whole numbers. */
export function integers(
  dtype: "i8" | "u8" | "i32" | "u32",
  shape: Shape,
  values: ArrayLike<number>,
): Given {
  const array = new { i8: Int8Array, u8: Uint8Array, i32: Int32Array, u32: Uint32Array }[dtype](
    Array.from(values),
  );
  return { dtype, shape, bytes: new Uint8Array(array.buffer) };
}

/** A tensor of whole numbers drawn evenly from `low` to `high`, ends included. */
export function whole(
  dtype: "i8" | "u8" | "i32" | "u32",
  shape: Shape,
  { low, high, seed = 1 }: { low: number; high: number; seed?: number },
): Given {
  const next = uniform(seed);
  const draw = () => low + Math.floor(next() * (high - low + 1));
  return integers(dtype, shape, Array.from({ length: elementCount(shape) }, draw));
}

/** An output that the op must write in full. */
export function blank(dtype: DeviceDType, shape: Shape): Given {
  const bytes = Math.ceil(elementCount(shape) * WIDTH[dtype]);
  return { dtype, shape, bytes: new Uint8Array(bytes).fill(0xff), blank: true };
}

const WIDTH = { f32: 4, i32: 4, u32: 4, bf16: 2, f16: 2, f8_e4m3: 1, i8: 1, u8: 1 } as const;

/** A quantized weight with a fixed scale of its input, where its scheme has one. */
export function withInputScale(quantized: Quantized, value: number, scope: Scope): Quantized {
  const { scheme, tensors } = quantized;
  if (!("activations" in scheme) || !scheme.activations.endsWith("-static")) return quantized;
  const input_scale = scope.alloc("f32", [1, 1]);
  scope.backend.write(input_scale, new Uint8Array(Float32Array.of(value).buffer));
  return { ...quantized, tensors: { ...tensors, input_scale } };
}
