/** How fast the CPU multiplies, by each thing that could: for `sluice devices`. */
import type { BlasChoice } from "../backends/wasm/blas.ts";
import { openWasm } from "../backends/wasm/mod.ts";
import { matmulNt } from "../ops/matmul_nt.ts";

/** Rows, and columns, of both matrices: 3 MB in all, at home in a cache. */
const SIZE = 512;
const RUNS = 9;

/**
 * Floating-point operations a second of a float32 product on one thread, of the median of a few:
 * takes some ten milliseconds.
 *
 * @throws {DeviceError} see {@linkcode openWasm}.
 */
export async function productSpeed(blas: BlasChoice): Promise<number> {
  await using backend = await openWasm({ threads: 1, blas });
  using scope = backend.scope();
  const [x, w, y] = ["x", "w", "y"].map(() => scope.alloc("f32", [SIZE, SIZE]));
  const values = Float32Array.from({ length: SIZE * SIZE }, (_, i) => Math.sin(i));
  for (const tensor of [x!, w!]) backend.write(tensor, new Uint8Array(values.buffer));
  const times = Array.from({ length: RUNS }, () => {
    const start = performance.now();
    backend.run(matmulNt, { x: x!, w: w!, y: y! }, { column: 0 });
    return (performance.now() - start) / 1000;
  });
  return 2 * SIZE ** 3 / times.sort((a, b) => a - b)[RUNS >> 1]!;
}
