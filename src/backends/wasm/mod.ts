/**
 * The CPU as a device: WebAssembly SIMD kernels on threads that share a memory of up to 4 GiB. The
 * same ops give the same bytes whatever the number of threads. Kernels are in assembly/, compiled
 * to kernels.wasm by build.ts.
 */
import { setImmediate } from "node:timers/promises";
import {
  type Backend,
  makeScope,
  type MatrixPlaces,
  type Scope,
  type ScratchFile,
  type Tensor,
} from "../../backend.ts";
import { DeviceError } from "../../errors.ts";
import {
  argumentsOf,
  bindDims,
  type DeviceDType,
  dimNames,
  type Dims,
  type Op,
  type OpArray,
  type Scalars,
} from "../../op.ts";
import { size } from "../../size.ts";
import { byteLength, elementCount, type Shape } from "../../tensor.ts";
import { addressOf, type Blas, type BlasChoice, openBlas, type Passed } from "./blas.ts";
import { Heap, MAX_PAGES } from "./heap.ts";
import { CpuLimits, describeCpu, wasmLimits } from "./limits.ts";
import { type Matrix, moveNumbers, multiplyStaged, OutsideTensor, STAGED } from "./outside.ts";
import { DiskTensor, runOnDisk } from "./on_disk.ts";
import { Kernels, Pool, WORDS } from "./pool.ts";
import { WasmTensor } from "./tensor.ts";

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
  const scratch = heap.take(threads * kernels.constant("scratchBytes"));
  const pool = await Pool.start(memory, { kernels, threads, blas });
  pool.control[WORDS.scratch] = scratch;
  pool.control[WORDS.blasLeast] = blas ? blasLeast : 0;
  return new WasmBackend(heap, pool, blas);
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

/** Where matrices on disk would lie if there was a place for them. */
function noFile(): never {
  throw new RangeError("Cannot keep a matrix on disk: there is no place for it");
}

/** What an op is run with. */
interface Call {
  readonly tensors: Readonly<Record<string, Tensor>>;
  readonly dims: Dims;
  readonly scalars: Scalars;
}

class WasmBackend extends CpuLimits implements Backend {
  readonly description: string;
  #makeFile: (bytes: number) => ScratchFile = noFile;
  readonly #heap: Heap;
  readonly #pool: Pool;
  readonly #blas: Blas | undefined;
  /** Where the memory lies in this process, which a BLAS is told. */
  readonly #base: number;
  #open = true;

  constructor(heap: Heap, pool: Pool, blas: Blas | undefined) {
    super(pool.threads);
    this.#heap = heap;
    this.#pool = pool;
    this.#blas = blas;
    this.#base = blas ? addressOf(new Uint8Array(heap.memory.buffer)) : 0;
    this.description = describeCpu({ ...wasmLimits(), threads: pool.threads }, blas);
  }

  placeMatrices(
    places: MatrixPlaces,
    makeFile: (bytes: number) => ScratchFile = noFile,
  ): Disposable {
    const before = [this.matrixPlaces, this.#makeFile] as const;
    [this.matrixPlaces, this.#makeFile] = [places, makeFile];
    return { [Symbol.dispose]: () => void ([this.matrixPlaces, this.#makeFile] = before) };
  }

  alloc(dtype: DeviceDType, shape: Shape): Tensor {
    this.#checkOpen();
    return new WasmTensor(this.#heap, dtype, shape);
  }

  scope(): Scope {
    return makeScope(this);
  }

  write(tensor: Tensor, bytes: Uint8Array): void {
    const own = this.#own(tensor);
    const most = byteLength(own);
    if (bytes.length > most) {
      throw new RangeError(
        `Cannot write ${bytes.length} bytes to a ${tensor.dtype}[${tensor.shape}] tensor of ${most} bytes`,
      );
    }
    if (own instanceof DiskTensor) own.put(bytes);
    else own.bytes.set(bytes);
  }

  shared(tensor: Tensor): Uint8Array {
    return this.#inMemory(tensor).bytes;
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
    if (Object.values(tensors).some((tensor) => tensor.outside)) {
      return this.#runOutside(op, { tensors, scalars, dims });
    }
    const { control } = this.#pool;
    let bytes = 0;
    argumentsOf(op).forEach(([name], i) => {
      const tensor = this.#inMemory(tensors[name]!);
      control[WORDS.tensors + 2 * i] = tensor.address;
      control[WORDS.tensors + 2 * i + 1] = DTYPE_NUMBERS[tensor.dtype] ?? 4;
      bytes += byteLength(tensor);
    });
    this.#call(op, { dims, scalars, alone: bytes < ALONE_BYTES });
  }

  /** Run a kernel whose arguments are in the control block already. */
  #call(
    op: Op,
    { dims, scalars, alone }: { dims: Dims; scalars: Scalars; alone: boolean },
  ): void {
    const { control } = this.#pool;
    dimNames(op).forEach((name, i) => control[WORDS.dims + i] = dims[name]!);
    const floats = new Float32Array(control.buffer);
    Object.entries(op.scalars ?? {}).forEach(([name, type], i) => {
      (type === "f32" ? floats : control)[WORDS.scalars + i] = scalars[name]!;
    });
    this.#pool.run(op.name, { alone });
  }

  /**
   * Run an op that takes a matrix outside the kernels' memory: the result is, to the bit, that of
   * matrices inside.
   */
  #runOutside(op: Op, call: Call): void {
    if (Object.values(call.tensors).some((tensor) => tensor instanceof DiskTensor)) {
      return runOnDisk(op, call, {
        alloc: (shape) => this.allocOutside(shape),
        run: (op, tensors, scalars) => this.run(op, tensors, scalars),
        arrayOf: (tensor) => this.#arrayOf(tensor),
      });
    }
    if (op.name === "gemm") {
      const { m = 0, n = 0, k = 0 } = call.scalars;
      const least = this.#pool.control[WORDS.blasLeast]!;
      return least > 0 && m * n * k >= least
        ? this.#multiplyInPlace(op, call)
        : this.#multiplyStaged(op, call);
    }
    const { tensors, dims, scalars } = call;
    const arrays = Object.fromEntries(
      Object.entries(tensors).map(([name, tensor]) => [name, this.#arrayOf(tensor)]),
    );
    moveNumbers(op, arrays, dims, scalars);
  }

  /** A product by the BLAS, which is given addresses of this process. */
  #multiplyInPlace(gemm: Op, { tensors, dims, scalars }: Call): void {
    const { control } = this.#pool;
    const bases = new Float64Array(control.buffer, WORDS.bases * 4, 3);
    ["a", "b", "c"].forEach((name, i) => {
      const tensor = this.#own(tensors[name]!);
      control[WORDS.tensors + 2 * i] = tensor instanceof WasmTensor ? tensor.address : 0;
      control[WORDS.tensors + 2 * i + 1] = DTYPE_NUMBERS.f32!;
      bases[i] = tensor instanceof OutsideTensor ? addressOf(tensor.array) - this.#base : 0;
    });
    try {
      this.#call(gemm, { dims, scalars, alone: false });
    } finally {
      bases.fill(0);
    }
  }

  /** A product by Sluice's own kernels, tile by tile through their memory. */
  #multiplyStaged(gemm: Op, { tensors, scalars }: Call): void {
    using scope = this.scope();
    const tile = () => scope.alloc("f32", [STAGED, STAGED]);
    const tiles = { a: tile(), b: tile(), c: tile() };
    multiplyStaged(scalars, {
      whole: (name) => this.#matrixOf(tensors[name]!),
      staged: (name) => this.#matrixOf(tiles[name]),
      multiply: (part) => this.run(gemm, tiles, part),
    });
  }

  #matrixOf(tensor: Tensor): Matrix {
    const [, columns = 0] = tensor.shape;
    return { array: this.#arrayOf(tensor) as Float32Array, columns };
  }

  /** A tensor that kernels reach. */
  #inMemory(tensor: Tensor): WasmTensor {
    const own = this.#own(tensor);
    if (own instanceof WasmTensor) return own;
    throw new TypeError("Cannot use a matrix that is kept outside the kernels' memory here");
  }

  #arrayOf(tensor: Tensor): OpArray {
    const own = this.#own(tensor);
    if (own instanceof OutsideTensor) return own.array;
    if (own instanceof DiskTensor) throw new TypeError("Cannot use a matrix on disk as a whole");
    const View = own.dtype === "u32" ? Uint32Array : Float32Array;
    // Shared memory, of which what moves numbers takes views as it does of any other.
    const buffer = this.#heap.memory.buffer as ArrayBuffer;
    return new View(buffer, own.address, elementCount(own.shape));
  }

  allocOnDisk(shape: Shape): Tensor {
    this.#checkOpen();
    return new DiskTensor(this.#heap, shape, this.#makeFile(byteLength({ dtype: "f32", shape })));
  }

  allocOutside(shape: Shape): OutsideTensor {
    this.#checkOpen();
    try {
      return new OutsideTensor(this.#heap, shape);
    } catch (cause) {
      if (!(cause instanceof RangeError)) throw cause;
      const bytes = byteLength({ dtype: "f32", shape });
      throw new DeviceError(
        `Cannot allocate ${size(bytes)} for a matrix: the system gives no more memory.`,
        { kind: "memory", backend: "wasm", bytes, cause },
      );
    }
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

  #own(tensor: Tensor): WasmTensor | OutsideTensor | DiskTensor {
    if (tensor instanceof WasmTensor && tensor.heap === this.#heap) return tensor;
    const isOurs = tensor instanceof OutsideTensor || tensor instanceof DiskTensor;
    if (isOurs && tensor.owner === this.#heap) return tensor;
    throw new TypeError("Cannot use a tensor of another backend on this one");
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
