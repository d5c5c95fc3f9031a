/**
 * The seam between Sluice and a device. A backend knows memory and dispatch, and nothing of models
 * or quantization. Implementations are in backends/: webgpu, wasm, and reference (the definitions
 * run plainly, for tests).
 */
import type { DeviceDType, Op, Scalars } from "./op.ts";
import type { Shape } from "./tensor.ts";
import type { Traffic } from "./traffic.ts";

/** Memory on a device. Dispose it, or let the {@linkcode Scope} it came from do so. */
export interface Tensor extends Disposable {
  readonly dtype: DeviceDType;
  readonly shape: Shape;
  /** Whether it is one of {@linkcode Backend.allocOutside}. */
  readonly outside?: boolean;
}

/** Something that allocates. Both a backend and a scope do. */
export interface Allocator {
  /**
   * Memory for `shape` elements of `dtype`; its contents are undefined until written.
   *
   * @throws {DeviceError} of kind `memory` when the device has not enough left (a GPU may say so
   * only at the next `read`).
   */
  alloc(dtype: DeviceDType, shape: Shape): Tensor;
}

/** Frees everything it allocated, and every tensor it was told to `keep`, when it ends. */
export interface Scope extends Allocator, Disposable {
  readonly backend: Backend;
  /** Take over a tensor from elsewhere: it is freed with this scope. */
  adopt<T extends Tensor>(tensor: T): T;
  /** Let a tensor outlive this scope; whoever called must dispose of it. */
  release<T extends Tensor>(tensor: T): T;
}

/** Where matrices lie, by the bytes they have. */
export interface MatrixPlaces {
  /** From so many bytes on outside of the memory that kernels reach. */
  readonly outsideBytes: number;
  /** From so many on, square ones lie on disk; none unless given. */
  readonly diskBytes?: number;
}

/** A file that is changed in place, at once, and is gone when it is disposed of. */
export interface ScratchFile extends Disposable {
  /** Fill `into` with what begins at a byte. */
  read(begin: number, into: Uint8Array): void;
  /** Put bytes where a byte is. */
  write(begin: number, bytes: Uint8Array): void;
}

/** A device: memory, and ops run in the order they were queued. */
export interface Backend extends Allocator, AsyncDisposable {
  readonly name: "webgpu" | "wasm" | "reference";
  /**
   * What the device calls itself, for the report: an adapter's description, or the CPU's threads.
   */
  readonly description: string;
  /**
   * Whether it is a GPU played by the CPU, which `--device auto` does not choose. Other backends
   * say `false`.
   */
  readonly software: boolean;
  /** Largest tensor one kernel may bind, in bytes. The planner cuts weights to fit. */
  readonly maxTensorBytes: number;
  /** Bytes of tensors that the device can hold at once, if it is known; the planner keeps to it. */
  readonly memoryBytes?: number;
  /**
   * Memory for an f32 matrix outside of what the device's kernels reach, if there is such a thing:
   * it is not of `memoryBytes`. Only `gemm`, `copy`, `mirror`, `diagonal` and `permute_gram` take
   * it.
   *
   * @throws {DeviceError} of kind `memory`: the system has not enough.
   */
  allocOutside?(shape: Shape): Tensor;
  /**
   * Memory for an f32 matrix on disk, of which an op has a part in memory while it runs; otherwise
   * as {@linkcode allocOutside}.
   *
   * @throws {SpaceError} the file cannot be made.
   */
  allocOnDisk?(shape: Shape): Tensor;
  /** Where large matrices lie; absent where they lie as all others do. */
  readonly matrixPlaces?: MatrixPlaces;
  /**
   * Keep matrices elsewhere, until the result is disposed of. Matrices in the same panels give the
   * same results wherever they lie.
   *
   * @param makeFile A file of so many zeros, for a matrix on disk.
   */
  placeMatrices?(places: MatrixPlaces, makeFile?: (bytes: number) => ScratchFile): Disposable;
  /**
   * Bytes of tensors that the device has room for now, up to some: found by trying. Absent where
   * memory is the machine's.
   */
  room?(upTo: number): Promise<number>;
  /** Bytes a slice of a weight should have for this device to run at speed. */
  readonly sliceBytes: number;
  /** Rows that a product should have for this device to run at speed. */
  readonly productRows: number;
  /** Rows that keep this device busy where one invocation computes a row: GPTQ's loop over columns. */
  readonly busyRows: number;
  /** Elements of a product's input or output from which more rows make it no faster, if any do. */
  readonly productElements?: number;
  /** What has passed to and fro so far; absent where the host's memory is the device's. */
  readonly traffic?: Traffic;
  /**
   * `true`, or the reason this device cannot run `op`. Asked while planning, never while running.
   */
  supports(op: Op): true | string;
  scope(): Scope;
  /**
   * Copy `bytes` into a tensor from its beginning; fewer bytes than the tensor holds leave the rest
   * as it was.
   */
  write(tensor: Tensor, bytes: Uint8Array): void;
  /**
   * A tensor's own bytes, where the host shares memory with the device: to be filled before the
   * first op that takes it, and no longer used once it is disposed of. Absent: {@linkcode write}
   * copies.
   */
  shared?(tensor: Tensor): Uint8Array;
  /**
   * Wait for all that was queued and copy tensors out, each with exactly its own bytes. One wait
   * for many tensors.
   */
  read(...tensors: Tensor[]): Promise<Uint8Array<ArrayBuffer>[]>;
  /** Queue `op`. The shapes are checked against its signature (`bindDims`). */
  run(op: Op, tensors: Readonly<Record<string, Tensor>>, scalars?: Scalars): void;
  /** Wait until everything queued is done. */
  finish(): Promise<void>;
  /**
   * Hand over what is queued, let the event loop turn, and wait only for what was handed over some
   * calls ago: the queue stays short, progress tells the truth, and the device need not stand
   * still. Absent where `finish` costs nothing.
   */
  fence?(): Promise<void>;
}

/** What of a device a plan depends on; of one that computes nothing yet, too. */
export type DeviceLimits = Pick<
  Backend,
  | "name"
  | "software"
  | "room"
  | "maxTensorBytes"
  | "memoryBytes"
  | "sliceBytes"
  | "productRows"
  | "productElements"
  | "busyRows"
  | "supports"
  | "matrixPlaces"
>;

/** A scope over any backend: what every implementation returns from `scope()`. */
export function makeScope(backend: Backend): Scope {
  const held = new Set<Tensor>();
  return {
    backend,
    alloc(dtype, shape) {
      const tensor = backend.alloc(dtype, shape);
      held.add(tensor);
      return tensor;
    },
    adopt(tensor) {
      held.add(tensor);
      return tensor;
    },
    release(tensor) {
      held.delete(tensor);
      return tensor;
    },
    [Symbol.dispose]() {
      for (const tensor of held) tensor[Symbol.dispose]();
      held.clear();
    },
  };
}
