/**
 * A file on this machine that is complete or still arriving: what has come can be read, who wants
 * more waits for it.
 */
import { createHash } from "node:crypto";
import type { Span } from "../hub/client.ts";
import type { Disk, DiskReader } from "../io/disk.ts";

/** Bytes that are written to disk, or read from it to be hashed, at once. */
export const BATCH = 2 * 2 ** 20;

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

  /** Bytes of it, as soon as they are there. */
  async read({ begin, end }: Span): Promise<Uint8Array<ArrayBuffer>> {
    this.#reading++;
    try {
      while (this.#available < end && !this.#fault) {
        await new Promise<void>((wake) => this.#waiting.push({ end, wake }));
      }
      if (this.#fault) throw this.#fault.error;
      this.#served = true;
      this.#reader ??= this.#disk.open(this.path, { growing: true });
      return await (await this.#reader).read(begin, end);
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
    let writing = Promise.resolve();
    for await (const bytes of batches(chunks)) {
      const begin = offset;
      offset += bytes.length;
      // The next bytes are received while these are written.
      await writing;
      writing = writer.write(begin, bytes).then(() => this.#arrived(begin + bytes.length));
      // A failed write is reported by the wait for it; a transfer that fails first must not leave
      // it unhandled.
      writing.catch(() => {});
    }
    await writing;
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

/** The same bytes in pieces that are worth a write. */
async function* batches(
  chunks: AsyncIterable<Uint8Array<ArrayBuffer>>,
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
  let batch = new Uint8Array(BATCH), filled = 0;
  for await (const chunk of chunks) {
    for (let taken = 0; taken < chunk.length;) {
      const part = chunk.subarray(taken, taken + batch.length - filled);
      batch.set(part, filled);
      filled += part.length;
      taken += part.length;
      if (filled < batch.length) continue;
      yield batch;
      filled = 0;
      batch = new Uint8Array(BATCH);
    }
  }
  if (filled > 0) yield batch.subarray(0, filled);
}
