/** A device that counts the bytes of tensors on it. */
import { type Backend, makeScope, type Tensor } from "../src/backend.ts";
import { deviceBytes } from "../src/op.ts";

/** A device that behaves as `backend`, and the most bytes of tensors that lay on it at once. */
export function counted(
  backend: Backend,
): { readonly backend: Backend; readonly peakBytes: () => number } {
  let [held, peak] = [0, 0];
  const alloc: Backend["alloc"] = (dtype, shape) => {
    const tensor = backend.alloc(dtype, shape);
    const bytes = deviceBytes(tensor);
    held += bytes;
    peak = Math.max(peak, held);
    const dispose = tensor[Symbol.dispose].bind(tensor);
    let live = true;
    Object.defineProperty(tensor, Symbol.dispose, {
      value(this: Tensor) {
        if (live) held -= bytes;
        live = false;
        dispose();
      },
    });
    return tensor;
  };
  const own: Backend = new Proxy(backend, {
    get(target, key) {
      if (key === "alloc") return alloc;
      if (key === "scope") return () => makeScope(own);
      const value = Reflect.get(target, key) as unknown;
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  return { backend: own, peakBytes: () => peak };
}
