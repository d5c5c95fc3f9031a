/**
 * The threads of the WASM backend: this one and workers, which share a memory and wait on a
 * generation counter, and take part in an op unless it is over when they get to run. An op costs no
 * message: its arguments are in the control block, and every thread takes work items from one
 * counter (assembly/call.ts).
 */
import { startThread } from "../../thread.ts";
import { DeviceError } from "../../errors.ts";
import { addressOf, type Blas, type Sgemm, SYMBOLS } from "./blas.ts";
import { kernels } from "./kernels.js";
import workerSource from "./worker.js" with { type: "text" };

/**
 * Places of the control block, in 32-bit words. From `next` on assembly/call.ts knows them too, as
 * byte addresses.
 */
export const WORDS = {
  /** Raised for every op that workers take part in. */
  generation: 16,
  /** Which kernel to run, or −1 to end. */
  kernel: 17,
  /** Workers that take part in the op, or −1 when it is closed to them. */
  entered: 18,
  /** 1 once a kernel trapped in a worker. */
  failed: 19,
  /** The next work item. */
  next: 20,
  /** Items done, for kernels that count them. */
  done: 21,
  /** Address of the threads' scratch memory. */
  scratch: 22,
  /** Workers that took part and are done. */
  left: 23,
  /** The multiply-adds from which a product is the BLAS's; 0: there is none. */
  blasLeast: 24,
  /** Address and dtype of each argument. */
  tensors: 32,
  dims: 64,
  scalars: 80,
  /** What a BLAS is to add to the addresses of its three matrices: three f64. */
  bases: 128,
} as const;

/** Looks at a counter before this thread sleeps on it. */
const SPINS = 2000;

/** The ops there are kernels for. */
export const KERNEL_NAMES: readonly string[] = WebAssembly.Module.exports(kernels)
  .filter(({ name, kind }) => kind === "function" && !name.startsWith("probe"))
  .map(({ name }) => name);

/** An instance of the kernels on this thread. */
export class Kernels {
  readonly #exports: WebAssembly.Exports;
  /** @param blas What computes products when the control block says so. */
  constructor(memory: WebAssembly.Memory, blas?: Blas) {
    const sgemm = blas ? onMemory(memory, blas) : absent;
    this.#exports = new WebAssembly.Instance(kernels, { env: { memory, sgemm } }).exports;
  }
  /** A number the kernels were compiled with. */
  constant(name: "heapBase" | "scratchBytes"): number {
    const value = this.#exports[name];
    if (!(value instanceof WebAssembly.Global)) {
      throw new TypeError(`There is no constant "${name}"`);
    }
    return value.value;
  }
  /** Call an export with this thread's number. */
  call(name: string, thread: number): number {
    const kernel = this.#exports[name];
    if (typeof kernel !== "function") {
      throw new TypeError(`There is no WebAssembly kernel "${name}"`);
    }
    return kernel(thread);
  }
}

/** `cblas_sgemm` on addresses of this memory, which never moves; worker.js has its own. */
function onMemory(memory: WebAssembly.Memory, { sgemm }: Blas): Sgemm {
  const base = addressOf(new Uint8Array(memory.buffer));
  const bases = new Float64Array(memory.buffer, 4 * WORDS.bases, 3);
  // Addresses over 2 GiB come as negative numbers.
  const at = (i: number, address: number) => base + bases[i]! + (address >>> 0);
  return (order, transA, transB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc) =>
    sgemm(
      ...[order, transA, transB, m, n, k, alpha, at(0, a), lda] as const,
      ...[at(1, b), ldb, beta, at(2, c), ldc] as const,
    );
}

function absent(): never {
  throw new TypeError("There is no BLAS");
}

/** This thread and its workers. */
export class Pool {
  readonly control: Int32Array<SharedArrayBuffer>;
  readonly #kernels: Kernels;
  readonly #workers: Worker[];

  private constructor(memory: WebAssembly.Memory, instance: Kernels, workers: Worker[]) {
    this.control = controlOf(memory);
    this.control[WORDS.entered] = -1;
    this.#kernels = instance;
    this.#workers = workers;
  }

  /** Start `threads` − 1 workers and wait until they are ready. */
  static async start(
    memory: WebAssembly.Memory,
    { kernels: instance, threads, blas }: {
      readonly kernels: Kernels;
      readonly threads: number;
      readonly blas?: Blas | undefined;
    },
  ): Promise<Pool> {
    const library = blas && { path: blas.library, symbols: SYMBOLS };
    const workers = Array.from(
      { length: threads - 1 },
      (_, i) => startWorker(memory, { thread: i + 1, library }),
    );
    return new Pool(memory, instance, await Promise.all(workers));
  }

  get threads(): number {
    return this.#workers.length + 1;
  }

  /**
   * Run a kernel to its end, on all threads or, when it is too little work to wake them, on this
   * one.
   *
   * @throws {DeviceError} of kind `kernel`: it trapped, which is a fault of Sluice; or `lost`: one
   * did before.
   */
  run(name: string, { alone }: { readonly alone: boolean }): void {
    const { control } = this;
    if (Atomics.load(control, WORDS.failed) !== 0) {
      throw new DeviceError(`Cannot run ${name} on the CPU: a kernel trapped before`, {
        kind: "lost",
        backend: "wasm",
      });
    }
    control[WORDS.next] = 0;
    control[WORDS.done] = 0;
    const workers = alone ? 0 : this.#workers.length;
    if (workers > 0) {
      control[WORDS.kernel] = KERNEL_NAMES.indexOf(name);
      control[WORDS.left] = 0;
      Atomics.store(control, WORDS.entered, 0);
      this.#wake();
    }
    try {
      this.#kernels.call(name, 0);
    } catch (cause) {
      Atomics.store(control, WORDS.failed, 1);
      if (!(cause instanceof WebAssembly.RuntimeError)) throw cause;
      throw trapped(name, cause);
    } finally {
      if (workers > 0) this.#join();
    }
    if (Atomics.load(control, WORDS.failed) !== 0) throw trapped(name);
  }

  /** End the workers. */
  stop(): void {
    Atomics.store(this.control, WORDS.kernel, -1);
    this.#wake();
    for (const worker of this.#workers) worker.terminate();
    this.#workers.length = 0;
  }

  #wake(): void {
    Atomics.add(this.control, WORDS.generation, 1);
    Atomics.notify(this.control, WORDS.generation);
  }

  /**
   * Close the op, and wait for the workers that take part. One that the system has not run in the
   * meantime finds it closed: where other programs want the cores too, nobody waits for it.
   */
  #join(): void {
    const { control } = this;
    const entered = Atomics.exchange(control, WORDS.entered, -1);
    for (let spin = 0; spin < SPINS; spin++) {
      if (Atomics.load(control, WORDS.left) === entered) return;
      Atomics.pause();
    }
    for (;;) {
      const left = Atomics.load(control, WORDS.left);
      if (left === entered) return;
      Atomics.wait(control, WORDS.left, left);
    }
  }
}

/** The control block, as words of the whole memory as it is now. */
function controlOf(memory: WebAssembly.Memory): Int32Array<SharedArrayBuffer> {
  const { buffer } = memory;
  if (!(buffer instanceof SharedArrayBuffer)) throw new TypeError("The memory must be shared");
  return new Int32Array(buffer);
}

function startWorker(
  memory: WebAssembly.Memory,
  { thread, library }: {
    readonly thread: number;
    readonly library: { readonly path: string; readonly symbols: typeof SYMBOLS } | undefined;
  },
): Promise<Worker> {
  const { promise, resolve, reject } = Promise.withResolvers<Worker>();
  const worker = startThread(workerSource, `sluice-${thread}`, {
    onMessage: () => resolve(worker),
    // Once it runs, a worker fails only by a trap, which the control block tells.
    onFailure: (message) =>
      reject(
        new DeviceError(`Cannot start a worker: ${message}`, { kind: "absent", backend: "wasm" }),
      ),
  });
  worker.postMessage({
    module: kernels,
    memory,
    names: KERNEL_NAMES,
    thread,
    words: WORDS,
    library,
  });
  return promise;
}

function trapped(name: string, cause?: unknown): DeviceError {
  return new DeviceError(
    `The WebAssembly kernel "${name}" trapped: this is a fault of Sluice, and this device cannot be used any more.`,
    { kind: "kernel", backend: "wasm", cause },
  );
}
