/** A device with the CPU's memory that computes nothing, so that runs of any size end soon. */
import { type Backend, makeScope, type MatrixPlaces } from "../src/backend.ts";
import { Heap, MAX_PAGES } from "../src/backends/wasm/heap.ts";
import { bindDims, deviceBytes } from "../src/op.ts";
import { byteLength } from "../src/tensor.ts";

const PAGE = 65536;

/** A WebAssembly memory of which there is but the size. */
function imaginaryMemory(): WebAssembly.Memory {
  let pages = 16;
  const memory = {
    get buffer() {
      return { byteLength: pages * PAGE };
    },
    grow(delta: number) {
      pages += delta;
      return pages - delta;
    },
  };
  return memory as unknown as WebAssembly.Memory;
}

/**
 * A device whose tensors take places in a heap as the CPU's do, and whose floats are all 1.
 *
 * @param limits What it says of itself.
 */
export function idleDevice(
  limits: Pick<Backend, "maxTensorBytes" | "sliceBytes"> & {
    readonly memoryBytes: number;
    readonly matrixPlaces: MatrixPlaces;
  },
): { readonly backend: Backend; readonly heap: Heap } {
  const heap = new Heap(imaginaryMemory(), 0, MAX_PAGES);
  let { matrixPlaces } = limits;
  const backend: Backend = {
    ...limits,
    name: "wasm",
    description: "a device that computes nothing",
    software: false,
    productRows: 512,
    busyRows: 64,
    supports: () => true,
    alloc(dtype, shape) {
      let address: number | undefined = heap.take(deviceBytes({ dtype, shape }));
      return {
        dtype,
        shape,
        [Symbol.dispose]() {
          if (address !== undefined) heap.free(address);
          address = undefined;
        },
      };
    },
    get matrixPlaces() {
      return matrixPlaces;
    },
    placeMatrices(places) {
      matrixPlaces = places;
      return { [Symbol.dispose]: () => void (matrixPlaces = limits.matrixPlaces) };
    },
    allocOutside: (shape) => ({
      dtype: "f32",
      shape,
      outside: true,
      [Symbol.dispose]: () => {},
    }),
    scope: () => makeScope(backend),
    write: () => {},
    run: (op, tensors, scalars = {}) => void bindDims(op, tensors, scalars),
    read: (...tensors) =>
      Promise.resolve(tensors.map((tensor) => {
        const bytes = new Uint8Array(byteLength(tensor));
        if (tensor.dtype === "f32") new Float32Array(bytes.buffer).fill(1);
        return bytes;
      })),
    finish: () => Promise.resolve(),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  return { backend, heap };
}
