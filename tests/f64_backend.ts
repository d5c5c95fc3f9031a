/**
 * The definitions of ops in float64: what f32 tensors hold is not rounded. For derivatives by
 * differences, which f32 is too coarse for.
 */
import assert from "node:assert/strict";
import { type Backend, makeScope, type Tensor } from "../src/backend.ts";
import { referenceBackend } from "../src/backends/reference.ts";
import { widenAll } from "../src/number.ts";
import { bindDims, type DeviceDType, type OpArray } from "../src/op.ts";
import { elementCount, type Shape } from "../src/tensor.ts";

class Float64Tensor implements Tensor {
  values: Float64Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;
  constructor(readonly dtype: DeviceDType, readonly shape: Shape) {
    const count = elementCount(shape);
    this.values = dtype === "u32" ? new Uint32Array(count) : new Float64Array(count);
  }
  [Symbol.dispose]() {
    this.values = new Float64Array();
  }
}

/** What a tensor holds, to be read and to be changed. */
export function numbersOf(tensor: Tensor): Float64Array<ArrayBuffer> {
  assert.ok(tensor instanceof Float64Tensor && tensor.values instanceof Float64Array);
  return tensor.values;
}

/** See the head of this file; it takes floats and u32. */
export function float64Backend(): Backend {
  const own = (tensor: Tensor) => {
    assert.ok(tensor instanceof Float64Tensor);
    return tensor;
  };
  const backend: Backend = {
    ...referenceBackend(),
    alloc: (dtype, shape) => new Float64Tensor(dtype, shape),
    scope: () => makeScope(backend),
    write(tensor, bytes) {
      const { dtype, values } = own(tensor);
      const { buffer } = bytes.slice();
      const given = dtype === "u32"
        ? new Uint32Array(buffer)
        : dtype === "f32"
        ? new Float32Array(buffer)
        : widenAll(dtype as "bf16" | "f16", new Uint16Array(buffer));
      values.set(given);
    },
    read: (...tensors) =>
      Promise.resolve(
        tensors.map((tensor) => new Uint8Array(Float32Array.from(own(tensor).values).buffer)),
      ),
    run(op, tensors, scalars = {}) {
      const arrays = Object.fromEntries(
        Object.entries(tensors).map(([name, tensor]) => [name, own(tensor).values]),
      );
      const dims = bindDims(op, tensors, scalars);
      // Definitions compute with numbers, whatever array they lie in.
      op.reference(arrays as unknown as Record<string, OpArray>, dims, scalars, {});
    },
  };
  return backend;
}
