/**
 * The CPU as a device: WebAssembly SIMD kernels on threads that share a memory of up to 4 GiB. The
 * same ops give the same bytes whatever the number of threads. Kernels are in assembly/, compiled
 * to kernels.wasm by build.ts.
 */
import { setImmediate } from "node:timers/promises";
import { type Backend, makeScope, type Scope, type Tensor } from "../../backend.ts";
import { DeviceError } from "../../errors.ts";
import {
  argumentsOf,
  bindDims,
  deviceBytes,
  type DeviceDType,
  dimNames,
  type Op,
  type Scalars,
} from "../../op.ts";
import { byteLength, type Shape } from "../../tensor.ts";
import { type Blas, type BlasChoice, describeBlas, openBlas, type Passed } from "./blas.ts";
import { Heap, MAX_PAGES } from "./heap.ts";
import { KERNEL_NAMES, Kernels, Pool, WORDS } from "./pool.ts";

/** Numbers of dtypes as kernels know them; the rest is 4. */
const DTYPE_NUMBERS: Readonly<Partial<Record<DeviceDType, number>>> = {
  f32: 0,
  bf16: 1,
  f16: 2,
  f8_e4m3: 3,
};

/** Below this many bytes of arguments an op is over before the workers are awake. */
const ALONE_BYTES = 1 << 17;

/** Below this many multiply-adds a call of a BLAS costs more than it saves. */
const BLAS_LEAST = 1 << 17;

const MAX_TENSOR_BYTES = 2 ** 30;
const SLICE_BYTES = 4 * 2 ** 20;
/**
 * The share of the memory that a plan may fill: tensors come and go in sizes of their own, and
 * leave gaps that the next do not fit. With 11,008 inputs, for which 2.33 GB are planned, 2.25 GB
 * of tensors took up 2.43 GB (tests/device_memory_test.ts tries such runs).
 */
const FILLED = 15 / 16;

/** What the WASM backend can do on this machine, for `sluice devices`. */
export interface WasmLimits {
  readonly threads: number;
  /** All tensors together, and what the threads work in. */
  readonly memoryBytes: number;
  readonly maxTensorBytes: number;
  /**
   * Whether the CPU multiplies and adds with one rounding; sums of products differ in their last
   * bits where it does not.
   */
  readonly fusedMultiplyAdd: boolean;
}

/** Look at the CPU; takes about a millisecond. */
export function wasmLimits(): WasmLimits {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  return {
    threads: navigator.hardwareConcurrency,
    memoryBytes: MAX_PAGES * 65536,
    maxTensorBytes: MAX_TENSOR_BYTES,
    fusedMultiplyAdd: new Kernels(memory).call("probeFused", 0) === 1,
  };
}

/**
 * The CPU in words: `2 threads of WebAssembly SIMD with fused multiply-add`, and what multiplies:
 * `and OpenBLAS 0.3.21 (SkylakeX)`.
 */
export function describeCpu(limits: WasmLimits = wasmLimits(), blas?: Blas): string {
  const threads = limits.threads === 1 ? "1 thread" : `${limits.threads} threads`;
  const fused = limits.fusedMultiplyAdd ? "with" : "without";
  const library = blas ? ` and ${describeBlas(blas)}` : "";
  return `${threads} of WebAssembly SIMD ${fused} fused multiply-add${library}`;
}

/**
 * Open the CPU as a device.
 *
 * @param options.threads Threads to compute with, this one included; as many as the machine has
 * unless said.
 * @param options.blas The BLAS that computes f32 products, if any: see {@linkcode openBlas}. Sums
 * of products differ in their last bits from those of Sluice's own kernels.
 * @param options.blasLeast Multiply-adds a product must have for that, there for tests.
 * @param options.passed Told of libraries that are there and cannot be used.
 * @throws {RangeError} `threads` is not a positive whole number.
 * @throws {DeviceError} the workers cannot be started, or there is no memory for their scratch
 * space.
 */
export async function openWasm(
  {
    threads = navigator.hardwareConcurrency,
    blas: choice = "none",
    blasLeast = BLAS_LEAST,
    passed,
  }: {
    readonly threads?: number;
    readonly blas?: BlasChoice;
    readonly blasLeast?: number;
    readonly passed?: (library: Passed) => void;
  } = {},
): Promise<Backend> {
  if (!Number.isInteger(threads) || threads < 1) {
    throw new RangeError(`Cannot open the CPU with ${threads} threads: give 1 or more`);
  }
  const memory = reserveMemory();
  const { blas, passed: others } = openBlas(choice);
  for (const library of others) if (library.faulty) passed?.(library);
  const kernels = new Kernels(memory, blas);
  const heap = new Heap(memory, kernels.constant("heapBase"));
  const scratchBytes = threads * kernels.constant("scratchBytes");
  const scratch = heap.take(scratchBytes);
  const pool = await Pool.start(memory, { kernels, threads, blas });
  pool.control[WORDS.scratch] = scratch;
  pool.control[WORDS.blasLeast] = blas ? blasLeast : 0;
  const limits = { ...wasmLimits(), threads };
  return new WasmBackend(heap, pool, {
    blas,
    description: describeCpu(limits, blas),
    memoryBytes: Math.floor((limits.memoryBytes - scratchBytes) * FILLED),
  });
}

/**
 * A shared memory that may grow to 4 GiB. Its addresses are reserved now, its pages when they are
 * used.
 */
function reserveMemory(): WebAssembly.Memory {
  const maximum = MAX_PAGES + 1;
  try {
    return new WebAssembly.Memory({ initial: 16, maximum, shared: true });
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    throw new DeviceError(
      "Cannot open the CPU as a device: the system does not let this process reserve 4 GiB of addresses",
      { kind: "memory", backend: "wasm", bytes: maximum * 65536, cause },
    );
  }
}

/** A block of the heap. */
class WasmTensor implements Tensor {
  readonly dtype: DeviceDType;
  readonly shape: Shape;
  readonly heap: Heap;
  #address: number | undefined;

  constructor(heap: Heap, dtype: DeviceDType, shape: Shape) {
    this.dtype = dtype;
    this.shape = shape;
    this.heap = heap;
    this.#address = heap.take(deviceBytes(this));
  }

  get address(): number {
    if (this.#address === undefined) {
      throw new TypeError(`Cannot use a ${this.dtype}[${this.shape}] tensor: it was freed`);
    }
    return this.#address;
  }

  /** The tensor's own bytes, in the memory as it is now. */
  get bytes(): Uint8Array<ArrayBufferLike> {
    return new Uint8Array(this.heap.memory.buffer, this.address, byteLength(this));
  }

  [Symbol.dispose](): void {
    if (this.#address === undefined) return;
    this.heap.free(this.#address);
    this.#address = undefined;
  }
}

class WasmBackend implements Backend {
  readonly name = "wasm";
  readonly description: string;
  readonly software = false;
  readonly maxTensorBytes = MAX_TENSOR_BYTES;
  readonly memoryBytes: number;
  readonly sliceBytes = SLICE_BYTES;
  readonly #heap: Heap;
  readonly #pool: Pool;
  readonly #blas: Blas | undefined;
  #open = true;

  constructor(
    heap: Heap,
    pool: Pool,
    { blas, description, memoryBytes }:
      & Pick<Required<Backend>, "description" | "memoryBytes">
      & { readonly blas: Blas | undefined },
  ) {
    this.#heap = heap;
    this.#pool = pool;
    this.#blas = blas;
    this.description = description;
    this.memoryBytes = memoryBytes;
  }

  supports(op: Op): true | string {
    return KERNEL_NAMES.includes(op.name) || `there is no WebAssembly kernel for ${op.name}`;
  }

  alloc(dtype: DeviceDType, shape: Shape): Tensor {
    this.#checkOpen();
    return new WasmTensor(this.#heap, dtype, shape);
  }

  scope(): Scope {
    return makeScope(this);
  }

  write(tensor: Tensor, bytes: Uint8Array): void {
    const target = this.#own(tensor).bytes;
    if (bytes.length > target.length) {
      throw new RangeError(
        `Cannot write ${bytes.length} bytes to a ${tensor.dtype}[${tensor.shape}] tensor of ${target.length} bytes`,
      );
    }
    target.set(bytes);
  }

  shared(tensor: Tensor): Uint8Array {
    return this.#own(tensor).bytes;
  }

  async read(...tensors: Tensor[]): Promise<Uint8Array<ArrayBuffer>[]> {
    await this.finish();
    return tensors.map((tensor) => new Uint8Array(this.#own(tensor).bytes));
  }

  run(op: Op, tensors: Readonly<Record<string, Tensor>>, scalars: Scalars = {}): void {
    this.#checkOpen();
    const verdict = this.supports(op);
    if (verdict !== true) throw new TypeError(`Cannot run ${op.name}: ${verdict}`);
    const dims = bindDims(op, tensors, scalars);
    const { control } = this.#pool;
    let bytes = 0;
    argumentsOf(op).forEach(([name], i) => {
      const tensor = this.#own(tensors[name]!);
      control[WORDS.tensors + 2 * i] = tensor.address;
      control[WORDS.tensors + 2 * i + 1] = DTYPE_NUMBERS[tensor.dtype] ?? 4;
      bytes += byteLength(tensor);
    });
    dimNames(op).forEach((name, i) => control[WORDS.dims + i] = dims[name]!);
    const floats = new Float32Array(control.buffer);
    Object.entries(op.scalars ?? {}).forEach(([name, type], i) => {
      (type === "f32" ? floats : control)[WORDS.scalars + i] = scalars[name]!;
    });
    this.#pool.run(op.name, { alone: bytes < ALONE_BYTES });
  }

  /**
   * Ops end before `run` returns; this lets the event loop turn, so that signals and progress get
   * through.
   */
  async finish(): Promise<void> {
    this.#checkOpen();
    await setImmediate();
  }

  [Symbol.asyncDispose](): Promise<void> {
    if (this.#open) {
      this.#pool.stop();
      this.#blas?.[Symbol.dispose]();
    }
    this.#open = false;
    return Promise.resolve();
  }

  #own(tensor: Tensor): WasmTensor {
    if (!(tensor instanceof WasmTensor) || tensor.heap !== this.#heap) {
      throw new TypeError("Cannot use a tensor of another backend on this one");
    }
    return tensor;
  }

  #checkOpen(): void {
    if (!this.#open) {
      throw new DeviceError("Cannot use the CPU backend: it was disposed of", {
        kind: "lost",
        backend: "wasm",
      });
    }
  }
}
