/**
 * Slices of a plan's tensors in the order they are needed, read while the ones before are computed.
 */
import { matrixReader } from "../graph/matrix_reader.ts";
import { COPY_BYTES, READ_AHEAD_BYTES } from "../limits.ts";
import type { TensorTask } from "../plan/tasks.ts";
import type { Rows, TensorSource } from "../source.ts";
import { byteLength, elementCount, type TensorInfo } from "../tensor.ts";
import type { Trace } from "../trace.ts";

/** A read that the run will make. */
export interface Read {
  readonly task: TensorTask;
  /** Absent: the whole tensor. */
  readonly rows: Rows | undefined;
  readonly bytes: number;
}

/**
 * The reads that quantizing or copying a tensor takes; none when it is not written, or with its
 * block.
 */
export function readsOf(task: TensorTask): Read[] {
  if (task.kind === "drop" || task.kind === "smooth") return [];
  const tensor: TensorInfo = task.kind === "quantize" ? task.weight : task.source;
  const size = byteLength(tensor);
  const [first] = tensor.shape;
  if (first === undefined || elementCount(tensor.shape) === 0) {
    return [{ task, rows: undefined, bytes: size }];
  }
  const rowBytes = size / first;
  const rows = task.kind === "quantize"
    ? Math.max(1, task.sliceRows)
    : Math.max(1, Math.floor(COPY_BYTES / rowBytes));
  return Array.from({ length: Math.ceil(first / rows) }, (_, i) => {
    const [from, to] = [i * rows, Math.min(first, (i + 1) * rows)];
    return { task, rows: { from, to }, bytes: (to - from) * rowBytes };
  });
}

/** Reads slices in the order of the plan, ahead of the computation. */
export class ReadAhead {
  readonly #read: (read: Read) => Promise<Uint8Array<ArrayBuffer>>;
  readonly #reads: ReadonlyMap<TensorTask, readonly Read[]>;
  readonly #queue: Iterator<Read>;
  readonly #trace: Trace;
  readonly #pending: { readonly read: Read; readonly bytes: Promise<Uint8Array<ArrayBuffer>> }[] =
    [];
  #pendingBytes = 0;

  constructor(source: TensorSource, tasks: readonly TensorTask[], trace: Trace) {
    const readMatrix = matrixReader(
      (name, rows) => source.read(name, rows),
      (name) => source.tensors.get(name)!,
    );
    this.#read = ({ task, rows }) =>
      task.kind === "quantize" ? readMatrix(task.at, rows) : source.read(task.name, rows);
    this.#trace = trace;
    this.#reads = new Map(tasks.map((task) => [task, readsOf(task)]));
    this.#queue = [...this.#reads.values()].flat().values();
    this.#fill();
  }

  /** The slices of a task's tensor in order. */
  slicesOf(task: TensorTask): readonly Read[] {
    return this.#reads.get(task) ?? [];
  }

  /** The bytes of the next slice of the plan. */
  async next(): Promise<Uint8Array<ArrayBuffer>> {
    const first = this.#pending.shift();
    if (!first) throw new RangeError("Cannot read ahead: every slice of the plan has been read");
    const bytes = await first.bytes;
    this.#pendingBytes -= first.read.bytes;
    this.#fill();
    return bytes;
  }

  /** Start reads until enough is under way; always one. */
  #fill(): void {
    while (this.#pending.length === 0 || this.#pendingBytes < READ_AHEAD_BYTES) {
      const { value: read, done } = this.#queue.next();
      if (done) return;
      const bytes = this.#trace.transfer("read", read.bytes, () => this.#read(read));
      // A failed read is reported by the `next` that asks for it; a run that stops first must not
      // leave it unhandled.
      bytes.catch(() => {});
      this.#pending.push({ read, bytes });
      this.#pendingBytes += read.bytes;
    }
  }
}
