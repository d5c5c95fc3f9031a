/**
 * A file on this machine that is complete or still arriving: what has come can be read, who wants
 * more waits for it.
 */
import { createHash } from "node:crypto";
import type { Span } from "../hub/client.ts";
import type { Disk, DiskReader } from "../io/disk.ts";

/** Bytes that are written to disk, or read from it to be hashed, at once. */
export const BATCH = 2 * 2 ** 20;

/**
 * Batches that are on their way to the disk at once: on a busy machine each of them waits for a
 * turn, and the network would wait with it.
 */
const WRITES = 4;

/** A copy of a file. */
export class Copy {
  readonly path: string;
  readonly #disk: Disk;
  #reader: Promise<DiskReader> | undefined;
  /** Bytes from the start that can be read. */
  #available = 0;
  #reading = 0;
  /** To be called when nobody reads. */
  #quiet: (() => void) | undefined;
  #waiting: { readonly end: number; readonly wake: () => void }[] = [];
  #fault: { readonly error: unknown } | undefined;
  #served = false;
  #settled = false;

  constructor(path: string, disk: Disk) {
    this.path = path;
    this.#disk = disk;
  }

  /** Whether any of its bytes were given out. */
  get isServed(): boolean {
    return this.#served;
  }

  /** Whether it is complete, well, and nobody reads it just now. */
  get isIdle(): boolean {
    return this.#settled && !this.#fault && this.#reading === 0;
  }

  /** Bytes of it, as soon as they are there; see `DiskReader.read`. */
  async read<B extends ArrayBufferLike = ArrayBuffer>(
    { begin, end }: Span,
    into?: Uint8Array<B>,
  ): Promise<Uint8Array<ArrayBuffer | B>> {
    this.#reading++;
    try {
      while (this.#available < end && !this.#fault) {
        await new Promise<void>((wake) => this.#waiting.push({ end, wake }));
      }
      if (this.#fault) throw this.#fault.error;
      this.#served = true;
      this.#reader ??= this.#disk.open(this.path, { growing: true });
      return await (await this.#reader).read(begin, end, into);
    } finally {
      if (--this.#reading === 0) this.#quiet?.();
    }
  }

  /** SHA-256 of some of it, in hexadecimal. */
  async digest({ begin, end }: Span): Promise<string> {
    const hash = createHash("sha256");
    for (let at = begin; at < end; at += BATCH) {
      hash.update(await this.read({ begin: at, end: Math.min(end, at + BATCH) }));
    }
    return hash.digest("hex");
  }

  /** Make the file and write `chunks` into it. Those who wait are woken as the bytes arrive. */
  async fill(size: number, chunks: AsyncIterable<Uint8Array<ArrayBuffer>>): Promise<void> {
    await using writer = await this.#disk.create(this.path, size);
    let offset = 0;
    const free: Uint8Array<ArrayBuffer>[] = [];
    const writes: Promise<void>[] = [];
    const write = async (bytes: Uint8Array<ArrayBuffer>, before: Promise<void> | undefined) => {
      const begin = offset;
      offset += bytes.length;
      await Promise.all([writer.write(begin, bytes), before]);
      this.#arrived(begin + bytes.length);
      if (bytes.length === BATCH) free.push(bytes);
    };
    for await (const bytes of batches(chunks, () => free.pop() ?? new Uint8Array(BATCH))) {
      const writing = write(bytes, writes.at(-1));
      // A failed write is reported by the wait for it; a transfer that fails first must not leave
      // it unhandled.
      writing.catch(() => {});
      writes.push(writing);
      // The next bytes are received while these are written.
      if (writes.length > WRITES) await writes.shift();
    }
    await Promise.all(writes);
  }

  /** Throw away what has come, to begin again. Nothing may have been given out. */
  async startAgain(): Promise<void> {
    this.#available = 0;
    await this.#disk.remove(this.path);
  }

  /** Nothing more will come. With a fault, that is what reading gives from now on. */
  settle(fault?: { readonly error: unknown }): void {
    this.#fault = fault;
    this.#settled = true;
    for (const { wake } of this.#waiting.splice(0)) wake();
  }

  /** Remove the file when nobody reads it any more. */
  async remove(): Promise<void> {
    if (this.#reading > 0) await new Promise<void>((quiet) => this.#quiet = quiet);
    await (await this.#reader)?.[Symbol.asyncDispose]();
    // A copy that never began has no file.
    if (await this.#disk.lstat(this.path)) await this.#disk.remove(this.path);
  }

  #arrived(available: number): void {
    this.#available = available;
    this.#waiting = this.#waiting.filter(({ end, wake }) => {
      if (end <= available) wake();
      return end > available;
    });
  }
}

/** The same bytes in pieces that are worth a write, of `BATCH` bytes each but the last. */
async function* batches(
  chunks: AsyncIterable<Uint8Array<ArrayBuffer>>,
  room: () => Uint8Array<ArrayBuffer>,
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
  let batch = room(), filled = 0;
  for await (const chunk of chunks) {
    for (let taken = 0; taken < chunk.length;) {
      const part = chunk.subarray(taken, taken + batch.length - filled);
      batch.set(part, filled);
      filled += part.length;
      taken += part.length;
      if (filled < batch.length) continue;
      yield batch;
      filled = 0;
      batch = room();
    }
  }
  if (filled > 0) yield batch.subarray(0, filled);
}
