/** A device that counts the multiply-adds of matrix products. */
import type { Backend } from "../../src/backend.ts";
import { bindDims, type Scalars } from "../../src/op.ts";
import { withOwn } from "../run_given.ts";

/** A device that behaves as `device`; `taken` gives what was counted since it was last called. */
export function counting(
  device: Backend,
): { readonly backend: Backend; readonly taken: () => number } {
  let products = 0;
  const backend = withOwn(device, {
    run(op, tensors, scalars: Scalars = {}) {
      if (op.name === "gemm") {
        const { m = 0, n = 0, k = 0, half = 0 } = scalars;
        products += m * n * k / (half === 0 ? 1 : 2);
      } else if (op.name.startsWith("matmul")) {
        const [rows = 0, k = 0] = tensors.x!.shape;
        const columns = bindDims(op, tensors, scalars).R ?? 0;
        products += rows * k * columns;
      }
      device.run(op, tensors, scalars);
    },
  });
  return {
    backend,
    taken: () => [products, products = 0][0]!,
  };
}
