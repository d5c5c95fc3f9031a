/**
 * A file that arrives from the network, in batches. What has come is given at once to those who
 * wait for it and kept in memory for those who come soon; only what nobody takes for a while goes
 * to the disk.
 */
import { createHash } from "node:crypto";
import type { Span } from "../hub/client.ts";
import type { Buffers } from "../hub/buffer_pool.ts";
import type { Disk, DiskReader, DiskWriter } from "../io/disk.ts";

/** Bytes that are hashed, written to disk, or read from it to be hashed, at once. */
export const BATCH = 2 * 2 ** 20;

/** Batches of a copy that are in memory at once. */
export const WINDOW = 16;

/**
 * Batches that are on their way to the disk at once: on a busy machine each of them waits for a
 * turn, and the network would wait with it.
 */
const WRITES = 4;

/**
 * Milliseconds for which the network waits for a reader, once the memory is full: who reads a
 * little more slowly than bytes come needs no disk, and who computes for minutes does.
 */
const PATIENCE = 200;

/** Bytes of a file that wait in memory. */
export type BatchBytes = Uint8Array<ArrayBuffer>;

/**
 * Hash a batch: the bytes are lent to another thread and come back. (Memory that threads share
 * would not have to move, but V8 copies into it and out of it three times as slowly.)
 */
export type HashBatch = (batch: BatchBytes) => Promise<BatchBytes>;

/** A batch in memory. */
interface Held {
  readonly index: number;
  /** Absent while they are hashed. */
  bytes: BatchBytes | undefined;
  writing: boolean;
}

/** A read of which something has still to come. */
interface Want {
  /** What is still missing, by number of the batch. */
  readonly missing: Map<number, Span>;
  /** Where the byte at `begin` is put, and what follows. */
  readonly target: Uint8Array;
  readonly begin: number;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** What a copy works with. */
export interface CopyOptions {
  /** Bytes of the file. */
  readonly size: number;
  /** What will be read of it; the rest need not be kept. */
  readonly planned: readonly Span[];
  readonly disk: Disk;
  /** Each is for a batch. */
  readonly buffers: Buffers;
  /** Ends waiting. */
  readonly signal: AbortSignal;
}

/** A copy of a file. */
export class Copy {
  readonly path: string;
  readonly #options: CopyOptions;
  /** Of each batch, the bytes that are still to be read. */
  readonly #left: number[];
  /** By number of the batch, in the order they came. */
  readonly #held = new Map<number, Held>();
  /** Numbers of the batches that are in the file. */
  readonly #stored = new Set<number>();
  /** Batches that have come. */
  #arrived = 0;
  #writer: Promise<DiskWriter> | undefined;
  #reader: Promise<DiskReader> | undefined;
  #writes = 0;
  #reading = 0;
  /** To be called when nobody reads. */
  #quiet: (() => void) | undefined;
  #wants: Want[] = [];
  /** When somebody took bytes. */
  #taken = -Infinity;
  /** To be called when a batch was taken, hashed or written. */
  #change = Promise.withResolvers<void>();
  /** What went wrong beside the transfer. */
  #broken: { readonly error: unknown } | undefined;
  #fault: { readonly error: unknown } | undefined;
  #served = false;
  #settled = false;

  /** @param path Where it goes as far as it does not stay in memory; nothing may be there. */
  constructor(path: string, options: CopyOptions) {
    this.path = path;
    this.#options = options;
    this.#left = new Array(Math.ceil(options.size / BATCH)).fill(0);
    for (const span of options.planned) {
      for (const { index, begin, end } of parts(span)) this.#left[index]! += end - begin;
    }
  }

  /** Whether any of its bytes were given out. */
  get isServed(): boolean {
    return this.#served;
  }

  /** Whether it is complete and its hash was found right. */
  get isRight(): boolean {
    return this.#settled && !this.#fault;
  }

  /** Whether it is complete, well, and nobody reads it just now. */
  get isIdle(): boolean {
    return this.isRight && this.#reading === 0;
  }

  /**
   * Bytes of it, as soon as they are there; see `DiskReader.read`. Undefined where some of them
   * were not kept, because all reads that were planned were made.
   */
  async read<B extends ArrayBufferLike = ArrayBuffer>(
    span: Span,
    into?: Uint8Array<B>,
  ): Promise<Uint8Array<ArrayBuffer | B> | undefined> {
    this.#reading++;
    try {
      if (this.#fault) throw this.#fault.error;
      const target = into ?? new Uint8Array(span.end - span.begin);
      const stored: Part[] = [];
      const missing = new Map<number, Span>();
      for (const part of parts(span)) {
        const held = this.#held.get(part.index);
        if (held?.bytes) {
          this.#give(held, part, { ...span, target });
          this.#release(held);
        } else if (held || part.index >= this.#arrived) missing.set(part.index, part);
        else if (this.#stored.has(part.index)) stored.push(part);
        else return undefined;
      }
      await Promise.all([
        ...missing.size > 0 ? [this.#wait({ missing, target, begin: span.begin })] : [],
        ...stored.map((part) =>
          this.#load(part, target.subarray(part.begin - span.begin, part.end - span.begin))
        ),
      ]);
      return target;
    } finally {
      if (--this.#reading === 0) this.#quiet?.();
    }
  }

  /** SHA-256 of some of it, in hexadecimal; undefined where not all of it is in the file. */
  async digest(span: Span): Promise<string | undefined> {
    const hash = createHash("sha256");
    for (const part of parts(span)) {
      if (!this.#stored.has(part.index)) return undefined;
      hash.update(await this.#load(part));
    }
    return hash.digest("hex");
  }

  /**
   * Take in the whole file. Ends when all of it was read or is on the disk.
   *
   * @param hash Given every batch in order.
   */
  async fill(
    chunks: AsyncIterable<BatchBytes>,
    hash: HashBatch,
  ): Promise<void> {
    const { buffers, signal } = this.#options;
    const wake = () => this.#changed();
    signal.addEventListener("abort", wake);
    try {
      for await (const bytes of batches(chunks, buffers)) {
        this.#arrive(bytes, hash);
        // The network waits before it is asked for more.
        while (this.#held.size >= WINDOW) await this.#makeRoom();
      }
      while (this.#held.size > 0) await this.#makeRoom();
    } finally {
      signal.removeEventListener("abort", wake);
      // Nothing more is read from memory; what is being hashed or written is let finish.
      while ([...this.#held.values()].some(({ bytes, writing }) => !bytes || writing)) {
        await this.#change.promise;
      }
      for (const { bytes } of this.#held.values()) buffers.give(bytes!);
      this.#held.clear();
      await (await this.#writer)?.[Symbol.asyncDispose]();
    }
  }

  /** Throw away what has come, to begin again. Nothing may have been given out. */
  async startAgain(): Promise<void> {
    this.#arrived = 0;
    this.#stored.clear();
    if (this.#writer) await this.#options.disk.remove(this.path);
    this.#writer = undefined;
  }

  /** Nothing more will come. With a fault, that is what reading gives from now on. */
  settle(fault?: { readonly error: unknown }): void {
    this.#fault = fault;
    this.#settled = true;
    if (fault) { for (const { reject } of this.#wants.splice(0)) reject(fault.error); }
  }

  /** Remove the file when nobody reads it any more. */
  async remove(): Promise<void> {
    if (this.#reading > 0) await new Promise<void>((quiet) => this.#quiet = quiet);
    await (await this.#reader)?.[Symbol.asyncDispose]();
    // A copy that stayed in memory has no file.
    const { disk } = this.#options;
    if (await disk.lstat(this.path)) await disk.remove(this.path);
  }

  /** A batch has come: first those are served who wait for it, then it is hashed. */
  #arrive(bytes: BatchBytes, hash: HashBatch): void {
    const held: Held = { index: this.#arrived++, bytes, writing: false };
    this.#held.set(held.index, held);
    this.#serve(held);
    held.bytes = undefined;
    const back = (bytes: BatchBytes) => {
      held.bytes = bytes;
      this.#serve(held);
      this.#release(held);
    };
    hash(bytes).then(back, (error: unknown) => {
      this.#broken ??= { error };
      back(this.#options.buffers.take());
    });
  }

  /** Give a batch to those who wait for it. */
  #serve(held: Held): void {
    for (const want of this.#wants) {
      const part = want.missing.get(held.index);
      if (!part) continue;
      this.#give(held, part, want);
      want.missing.delete(held.index);
      if (want.missing.size === 0) want.resolve();
    }
    this.#wants = this.#wants.filter(({ missing }) => missing.size > 0);
  }

  /** Copy a part of a batch to where it is wanted. */
  #give(
    held: Held,
    { begin, end }: Span,
    { begin: first, target }: Pick<Want, "begin" | "target">,
  ): void {
    const start = held.index * BATCH;
    target.set(held.bytes!.subarray(begin - start, end - start), begin - first);
    this.#count(held.index, end - begin);
  }

  /** Some of a batch was read. */
  #count(index: number, bytes: number): void {
    this.#left[index]! -= bytes;
    this.#served = true;
    this.#taken = performance.now();
  }

  /** Forget a batch that is of no more use. */
  #release(held: Held): void {
    const { index, bytes, writing } = held;
    const wanted = this.#left[index]! > 0 && !this.#stored.has(index);
    if (bytes && !writing && !wanted && this.#held.delete(index)) this.#options.buffers.give(bytes);
    this.#changed();
  }

  #changed(): void {
    this.#change.resolve();
    this.#change = Promise.withResolvers();
  }

  async #wait(want: Omit<Want, "resolve" | "reject">): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#wants.push({ ...want, resolve, reject });
    // The network waits for a reader no longer, if it does.
    this.#changed();
    await promise;
  }

  async #load(part: Part, into?: Uint8Array): Promise<Uint8Array> {
    this.#reader ??= this.#options.disk.open(this.path, { growing: true });
    const bytes = await (await this.#reader).read(part.begin, part.end, into);
    if (into) this.#count(part.index, part.end - part.begin);
    return bytes;
  }

  /** Wait until a batch was taken, or have some written to the disk. */
  async #makeRoom(): Promise<void> {
    const { promise } = this.#change;
    if (this.#broken) throw this.#broken.error;
    this.#options.signal.throwIfAborted();
    const still = this.#taken + PATIENCE - performance.now();
    if (this.#wants.length === 0 && still > 0) return await within(promise, still);
    for (const held of this.#held.values()) {
      if (this.#writes === WRITES) break;
      if (held.bytes && !held.writing && this.#left[held.index]! > 0) this.#store(held, held.bytes);
    }
    await promise;
  }

  /** Write a batch to the disk. */
  async #store(held: Held, bytes: BatchBytes): Promise<void> {
    const { disk, size } = this.#options;
    held.writing = true;
    this.#writes++;
    try {
      this.#writer ??= disk.create(this.path, size);
      await (await this.#writer).write(held.index * BATCH, bytes);
      this.#stored.add(held.index);
    } catch (error) {
      // Whoever fills the copy is told.
      this.#broken ??= { error };
    } finally {
      this.#writes--;
      held.writing = false;
      this.#release(held);
    }
  }
}

/** A part of a span that lies in one batch. */
interface Part extends Span {
  readonly index: number;
}

function parts({ begin, end }: Span): Part[] {
  const first = Math.floor(begin / BATCH);
  return Array.from({ length: Math.ceil(end / BATCH) - first }, (_, i) => ({
    index: first + i,
    begin: Math.max(begin, (first + i) * BATCH),
    end: Math.min(end, (first + i + 1) * BATCH),
  }));
}

/** Wait for a promise, but not longer than so many milliseconds. */
async function within(promise: Promise<void>, milliseconds: number): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const end = new Promise<void>((resolve) => timer = setTimeout(resolve, milliseconds));
  await Promise.race([promise, end]).finally(() => clearTimeout(timer));
}

/**
 * The same bytes in batches, each of `BATCH` bytes but the last. A chunk that is a batch is passed
 * on as it is.
 *
 * @param chunks In buffers, which are given back.
 */
export async function* batches(
  chunks: AsyncIterable<BatchBytes>,
  buffers: Buffers,
): AsyncGenerator<BatchBytes, void, undefined> {
  let batch: BatchBytes | undefined;
  let filled = 0;
  for await (const chunk of chunks) {
    if (!batch && chunk.length === BATCH) {
      yield chunk;
      continue;
    }
    for (let taken = 0; taken < chunk.length;) {
      batch ??= buffers.take();
      const part = chunk.subarray(taken, taken + batch.length - filled);
      batch.set(part, filled);
      filled += part.length;
      taken += part.length;
      if (filled < batch.length) continue;
      yield batch;
      filled = 0;
      batch = undefined;
    }
    buffers.give(chunk);
  }
  if (batch && filled > 0) yield batch.subarray(0, filled);
}
