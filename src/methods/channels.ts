/** Numbers by channel, on the host and on the device. */
import type { Scope, Tensor } from "../backend.ts";

/** f32[C] on the device. */
export function upload(values: Float32Array | Uint32Array, scope: Scope): Tensor {
  const tensor = scope.alloc(values instanceof Uint32Array ? "u32" : "f32", [values.length]);
  scope.backend.write(tensor, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  return tensor;
}

/** Σ x² of each channel after it was divided by its scale. */
export function scaledSquares(
  squares: Float32Array,
  scales: Float32Array | undefined,
): Float32Array<ArrayBuffer> {
  return Float32Array.from(squares, (square, c) => square / (scales ? scales[c]! ** 2 : 1));
}

/** The order 0, 1, … */
export function natural(count: number): Uint32Array<ArrayBuffer> {
  return Uint32Array.from({ length: count }, (_, i) => i);
}
