/** A device that counts the bytes of tensors on it. */
import { type Backend, makeScope, type Tensor } from "../src/backend.ts";
import { deviceBytes } from "../src/op.ts";

/** Bytes of tensors on a device. */
export interface Counted {
  readonly backend: Backend;
  readonly heldBytes: () => number;
  /** The most that lay on it at once, since `forgetPeak` was called. */
  readonly peakBytes: () => number;
  readonly forgetPeak: () => void;
}

/** A device that behaves as `backend`, and whose tensors are counted. */
export function counted(backend: Backend): Counted {
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
  return {
    backend: own,
    heldBytes: () => held,
    peakBytes: () => peak,
    forgetPeak: () => peak = held,
  };
}
