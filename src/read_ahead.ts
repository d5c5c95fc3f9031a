/** Slices of a plan's tensors in the order they are needed, read while the ones before are computed. */
import { COPY_BYTES, READ_AHEAD_BYTES } from "./budget.ts";
import type { Step } from "./plan.ts";
import type { Rows, TensorSource } from "./source.ts";
import type { Stopwatch } from "./timeline.ts";
import { byteLength, elementCount } from "./tensor.ts";

/** A read that the run will make. */
export interface Read {
  readonly name: string;
  /** Absent: the whole tensor. */
  readonly rows: Rows | undefined;
  readonly bytes: number;
}

/** The reads that quantizing or copying a step's tensor takes; none when it is dropped. */
export function readsOf({ source, fate, sliceRows }: Step): Read[] {
  if (fate.kind === "drop") return [];
  const { name, shape } = source;
  const size = byteLength(source);
  const [first] = shape;
  if (first === undefined || elementCount(shape) === 0) {
    return [{ name, rows: undefined, bytes: size }];
  }
  const rowBytes = size / first;
  const rows = fate.kind === "quantize"
    ? Math.max(1, sliceRows)
    : Math.max(1, Math.floor(COPY_BYTES / rowBytes));
  return Array.from({ length: Math.ceil(first / rows) }, (_, i) => {
    const [from, to] = [i * rows, Math.min(first, (i + 1) * rows)];
    return { name, rows: { from, to }, bytes: (to - from) * rowBytes };
  });
}

/** Reads slices in the order of the plan, ahead of the computation. */
export class ReadAhead {
  readonly #source: TensorSource;
  readonly #reads: ReadonlyMap<string, readonly Read[]>;
  readonly #queue: Iterator<Read>;
  readonly #watch: Stopwatch;
  readonly #pending: { readonly read: Read; readonly bytes: Promise<Uint8Array<ArrayBuffer>> }[] =
    [];
  #pendingBytes = 0;

  constructor(source: TensorSource, steps: readonly Step[], watch: Stopwatch) {
    this.#source = source;
    this.#watch = watch;
    const reads = new Map(steps.map((step) => [step.source.name, readsOf(step)]));
    this.#reads = reads;
    this.#queue = [...reads.values()].flat().values();
    this.#fill();
  }

  /** The slices of a tensor in order. */
  slicesOf(name: string): readonly Read[] {
    return this.#reads.get(name) ?? [];
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
      const { name, rows, bytes: size } = read;
      const bytes = this.#watch.time("read", size, () => this.#source.read(name, rows));
      // A failed read is reported by the `next` that asks for it; a run that stops first must not leave it unhandled.
      bytes.catch(() => {});
      this.#pending.push({ read, bytes });
      this.#pendingBytes += size;
    }
  }
}
