/**
 * Tensors of float64, as the rest of Sluice reads them: as float32. Their values are rounded; all
 * else of a checkpoint stays.
 */
import type { TensorSource } from "../source.ts";
import type { TensorInfo } from "../tensor.ts";

/** A checkpoint whose f64 tensors are f32; the same one where it has none. */
export function readingDoubles<S extends TensorSource>(source: S): S {
  const doubles = new Set(
    [...source.tensors.values()].filter(({ dtype }) => dtype === "f64").map(({ name }) => name),
  );
  if (doubles.size === 0) return source;
  const tensors = new Map(
    [...source.tensors].map(([name, tensor]): [string, TensorInfo] => [
      name,
      doubles.has(name) ? { name, dtype: "f32", shape: tensor.shape } : tensor,
    ]),
  );
  return {
    ...source,
    tensors,
    async read(name, rows, into) {
      if (!doubles.has(name)) return await source.read(name, rows, into);
      const bytes = await source.read(name, rows);
      return new Uint8Array(Float32Array.from(new Float64Array(bytes.slice().buffer)).buffer);
    },
  };
}
