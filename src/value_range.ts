/** The range of a tensor's values, read back: what the observers of whole tensors begin with. */
import type { Backend, Tensor } from "./backend.ts";
import { tileRange } from "./ops/tile_range.ts";

/** Least and greatest value; −∞ and ∞ where some value is NaN or infinite. */
export interface ValueRange {
  readonly low: number;
  readonly high: number;
}

/** Bytes of device memory that {@linkcode rangeOf} takes for this many rows. */
export function rangeBytes(rows: number): number {
  return 2 * rows * 4;
}

/** The range of x f32[T, C]. */
export async function rangeOf(x: Tensor, backend: Backend): Promise<ValueRange> {
  const [rows = 0, columns = 0] = x.shape;
  using scratch = backend.scope();
  const [low, high] = [scratch.alloc("f32", [rows, 1]), scratch.alloc("f32", [rows, 1])];
  backend.run(tileRange, { w: x, low, high }, { tile_rows: 1, tile_columns: columns });
  const [lows, highs] = await backend.read(low, high);
  return {
    low: new Float32Array(lows!.buffer).reduce((a, b) => Math.min(a, b)),
    high: new Float32Array(highs!.buffer).reduce((a, b) => Math.max(a, b)),
  };
}
