/**
 * Runs every op by its definition: slow, portable, and what the other backends are tested against.
 * Refuses nothing that fits in memory.
 */
import { type Backend, makeScope, type Tensor } from "../backend.ts";
import {
  bindDims,
  type DeviceDType,
  type DTypes,
  type Op,
  type OpArray,
  parseSignature,
  type Scalars,
} from "../op.ts";
import { byteLength, type Shape } from "../tensor.ts";
import { f32ToBf16, f32ToF16, widenAll } from "../number.ts";

class HostTensor implements Tensor {
  readonly bytes: Uint8Array<ArrayBuffer>;
  #live = true;
  constructor(readonly dtype: DeviceDType, readonly shape: Shape) {
    this.bytes = new Uint8Array(byteLength({ dtype, shape }));
  }
  get live(): boolean {
    return this.#live;
  }
  [Symbol.dispose]() {
    this.#live = false;
  }
}

const ARRAYS = {
  f32: Float32Array,
  bf16: Uint16Array,
  f16: Uint16Array,
  f8_e4m3: Uint8Array,
  i8: Int8Array,
  u8: Uint8Array,
  i32: Int32Array,
  u32: Uint32Array,
} as const;

/**
 * The definitions as a backend. Everything happens at once, so `read` and `finish` wait for
 * nothing.
 */
export function referenceBackend(): Backend {
  const backend: Backend = {
    name: "reference",
    description: "the ops' definitions, run plainly",
    maxTensorBytes: Infinity,
    software: false,
    sliceBytes: 16 * 2 ** 20,
    productRows: 1,
    busyRows: 1,
    supports: () => true,
    alloc: (dtype, shape) => new HostTensor(dtype, shape),
    scope: () => makeScope(backend),
    write(tensor, bytes) {
      const to = host(tensor).bytes;
      if (bytes.length > to.length) {
        throw new RangeError(
          `Cannot write ${bytes.length} bytes to a tensor ${tensor.dtype}[${tensor.shape}] of ${to.length} bytes`,
        );
      }
      to.set(bytes);
    },
    read: (...tensors) => Promise.resolve(tensors.map((tensor) => host(tensor).bytes.slice())),
    run(op, tensors, scalars = {}) {
      const dims = bindDims(op, tensors, scalars);
      const dtypes: DTypes = Object.fromEntries(
        Object.entries(tensors).map(([name, tensor]) => [name, tensor.dtype]),
      );
      const arrays: Record<string, OpArray> = {};
      for (const [name, signature] of Object.entries({ ...op.inputs, ...op.outputs })) {
        const widen = parseSignature(signature).dtypes.includes("f32") || name in op.inputs;
        arrays[name] = arrayOf(host(tensors[name]!), widen);
      }
      op.reference(arrays, dims, roundScalars(op, scalars), dtypes);
      for (const name of Object.keys(op.outputs)) narrowBack(host(tensors[name]!), arrays[name]!);
    },
    finish: () => Promise.resolve(),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  return backend;
}

function host(tensor: Tensor): HostTensor {
  if (!(tensor instanceof HostTensor)) {
    throw new TypeError(`A tensor ${tensor.dtype}[${tensor.shape}] is of another backend`);
  }
  if (!tensor.live) {
    throw new TypeError(`A tensor ${tensor.dtype}[${tensor.shape}] was used after it was freed`);
  }
  return tensor;
}

/** A tensor as a definition sees it: its own memory, or a widened copy of narrow floats. */
function arrayOf(tensor: HostTensor, widen: boolean): OpArray {
  const raw = new ARRAYS[tensor.dtype](tensor.bytes.buffer);
  const { dtype } = tensor;
  if (!widen || !(dtype === "bf16" || dtype === "f16" || dtype === "f8_e4m3")) return raw;
  return widenAll(dtype, raw as Uint16Array | Uint8Array);
}

/** Put a widened output back into the dtype it has. */
function narrowBack({ dtype, bytes }: HostTensor, values: OpArray): void {
  if (!(values instanceof Float32Array) || (dtype !== "bf16" && dtype !== "f16")) return;
  new Uint16Array(bytes.buffer).set(
    Uint16Array.from(values, dtype === "bf16" ? f32ToBf16 : f32ToF16),
  );
}

/** f32 scalars as a device would hold them. */
function roundScalars(op: Op, scalars: Scalars): Scalars {
  return Object.fromEntries(
    Object.entries(scalars).map((
      [name, value],
    ) => [name, op.scalars?.[name] === "f32" ? Math.fround(value) : value]),
  );
}
