/**
 * Slices of a plan's tensors in the order they are needed, read while the ones before are computed:
 * those of weights into the device's own memory, where it is the host's too.
 */
import type { Backend, Tensor } from "../backend.ts";
import { DeviceError } from "../errors.ts";
import { matrixReader } from "../graph/matrix_reader.ts";
import { COPY_BYTES, READ_AHEAD_BYTES } from "../limits.ts";
import type { DeviceDType } from "../op.ts";
import type { QuantizeTask, TensorTask } from "../plan/tasks.ts";
import type { Rows, TensorSource } from "../source.ts";
import { byteLength, elementCount, matrixShape, type TensorInfo } from "../tensor.ts";
import type { Trace } from "../trace.ts";
import { leastCommonMultiple } from "../plan/slices.ts";

/** What outputs that share a read make of a tensor: one task of each. */
export type Together = readonly [TensorTask, ...TensorTask[]];

/** A read that the run will make. */
export interface Read {
  readonly task: TensorTask;
  /** Absent: the whole tensor. */
  readonly rows: Rows | undefined;
  readonly bytes: number;
}

/**
 * Tasks of several outputs by what they read: each group reads the same bytes, in the order in
 * which the first of them comes. Where a matrix does not lie in its tensor as rows of it, only
 * those that want it turned in the same way are together.
 */
export function together(tasks: readonly TensorTask[]): Together[] {
  const groups = Map.groupBy(tasks.filter(isRead), (task) => {
    const how = task.kind === "quantize" && isTurned(task) ? JSON.stringify(task.at) : "";
    return `${task.source.name}\n${how}`;
  });
  return [...groups.values()] as unknown as Together[];
}

/** What is not written is not read, and what is written with its block is read with it. */
function isRead({ kind }: TensorTask): boolean {
  return kind === "quantize" || kind === "copy";
}

/** The reads that quantizing or copying a tensor takes. */
function readsOf(tasks: Together): Read[] {
  // Where one quantizes it, its weight has the shape.
  const task = tasks.find(({ kind }) => kind === "quantize") ?? tasks[0];
  const tensor: TensorInfo = task.kind === "quantize" ? task.weight : task.source;
  const size = byteLength(tensor);
  const [first] = tensor.shape;
  if (first === undefined || elementCount(tensor.shape) === 0) {
    return [{ task, rows: undefined, bytes: size }];
  }
  const rowBytes = size / first;
  const rows = rowsTogether(tasks, Math.max(1, Math.floor(COPY_BYTES / rowBytes)));
  return Array.from({ length: Math.ceil(first / rows) }, (_, i) => {
    const [from, to] = [i * rows, Math.min(first, (i + 1) * rows)];
    return { task, rows: { from, to }, bytes: (to - from) * rowBytes };
  });
}

/** Rows of a slice that all of some tasks can take: the fewest, cut where each may cut. */
function rowsTogether(tasks: Together, copied: number): number {
  const quantized = tasks.filter((task) => task.kind === "quantize");
  if (quantized.length === 0) return copied;
  const fewest = Math.max(1, Math.min(...quantized.map(({ sliceRows }) => sliceRows)));
  const step = quantized.map(({ rowStep }) => rowStep).reduce(leastCommonMultiple);
  return quantized.length === 1 ? fewest : Math.max(step, Math.floor(fewest / step) * step);
}

/** A slice that was read. Dispose of it to free what it holds on the device. */
export interface Slice extends Disposable {
  readonly bytes: Uint8Array;
  /** What they are the bytes of: [rows, C] on the device; absent: they are the host's alone. */
  readonly tensor?: Tensor;
}

interface Pending {
  readonly read: Read;
  readonly tensor: Tensor | undefined;
  readonly bytes: Promise<Uint8Array>;
}

/**
 * Reads slices in the order of the plan, ahead of the computation. Dispose of it before the device:
 * reads may be on their way into its memory.
 */
export class ReadAhead implements AsyncDisposable {
  readonly #read: (read: Read, into: Uint8Array | undefined) => Promise<Uint8Array>;
  readonly #backend: Backend;
  readonly #reads: ReadonlyMap<TensorTask, readonly Read[]>;
  readonly #queue: Iterator<Read>;
  readonly #trace: Trace;
  readonly #pending: Pending[] = [];
  #pendingBytes = 0;

  constructor(
    tensors: readonly Together[],
    { source, backend, trace }: {
      readonly source: TensorSource;
      readonly backend: Backend;
      readonly trace: Trace;
    },
  ) {
    const readMatrix = matrixReader(
      (name, rows) => source.read(name, rows),
      (name) => source.tensors.get(name)!,
    );
    this.#read = async ({ task, rows }, into) => {
      const bytes = task.kind !== "quantize"
        ? await source.read(task.name, rows)
        : isTurned(task)
        ? await readMatrix(task.at, rows)
        : await source.read(task.at.of, rows, into);
      if (!into || bytes === into) return bytes;
      into.set(bytes);
      return into;
    };
    this.#backend = backend;
    this.#trace = trace;
    const reads = tensors.map((tasks) => [tasks[0], readsOf(tasks)] as const);
    this.#reads = new Map(reads);
    this.#queue = reads.flatMap(([, reads]) => reads).values();
    this.#fill();
  }

  /** The slices of a tensor in order, by the first of those that are together. */
  slicesOf(task: TensorTask): readonly Read[] {
    return this.#reads.get(task) ?? [];
  }

  /** The next slice of the plan. */
  async next(): Promise<Slice> {
    const [first] = this.#pending;
    if (!first) throw new RangeError("Cannot read ahead: every slice of the plan has been read");
    const bytes = await first.bytes;
    const { read, tensor } = first;
    this.#pending.shift();
    this.#pendingBytes -= read.bytes;
    this.#fill();
    return {
      bytes,
      ...(tensor ? { tensor } : {}),
      [Symbol.dispose]: () => tensor?.[Symbol.dispose](),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#pending.map(({ bytes }) => bytes));
    for (const { tensor } of this.#pending) tensor?.[Symbol.dispose]();
    this.#pending.length = 0;
  }

  /** Start reads until enough is under way; always one. */
  #fill(): void {
    while (this.#pending.length === 0 || this.#pendingBytes < READ_AHEAD_BYTES) {
      const { value: read, done } = this.#queue.next();
      if (done) return;
      const tensor = this.#place(read);
      const into = tensor && this.#backend.shared?.(tensor);
      const bytes = this.#trace.transfer("read", read.bytes, () => this.#read(read, into));
      // A failed read is reported by the `next` that asks for it; a run that stops first must not
      // leave it unhandled.
      bytes.catch(() => {});
      this.#pending.push({ read, tensor, bytes });
      this.#pendingBytes += read.bytes;
    }
  }

  /** Where a slice of a weight is read to; a device that has no room left gets it when it has. */
  #place({ task, rows }: Read): Tensor | undefined {
    if (task.kind !== "quantize" || !this.#backend.shared) return undefined;
    const { dtype, shape } = task.weight;
    const [height, columns] = matrixShape(shape);
    const count = rows ? rows.to - rows.from : height;
    try {
      return this.#backend.alloc(dtype as DeviceDType, [count, columns]);
    } catch (error) {
      if (!(error instanceof DeviceError && error.kind === "memory")) throw error;
      return undefined;
    }
  }
}

/** Whether a weight does not lie in its tensor as rows of it. */
function isTurned({ at }: QuantizeTask): boolean {
  return at.index !== undefined || at.transposed === true;
}
