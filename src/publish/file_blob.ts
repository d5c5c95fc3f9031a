/**
 * A file as a Blob that is read a little at a time: what `fetch` takes as a body, without the file
 * ever being in memory. (`node:fs.openAsBlob` reads the whole file.)
 */
import type { DiskReader } from "../io/disk.ts";

/** Bytes read at a time. */
const READ_BYTES = 2 ** 18;

/** Hears of what a stream does. */
export interface BlobWatcher {
  /** So many more bytes were handed on. */
  taken(bytes: number): void;
  /** The file could not be read; whoever reads the stream may see another error. */
  failed(fault: unknown): void;
}

/** Which bytes of a file, and who watches. */
interface Part {
  readonly begin?: number;
  readonly end?: number;
  readonly type?: string;
  readonly watcher?: BlobWatcher | undefined;
}

/** Bytes `[begin, end)` of an open file. Reading fails if the file changes meanwhile. */
export class FileBlob extends Blob {
  readonly #reader: DiskReader;
  readonly #begin: number;
  readonly #end: number;
  readonly #watcher: BlobWatcher | undefined;

  constructor(
    reader: DiskReader,
    { begin = 0, end = reader.size, type = "", watcher }: Part = {},
  ) {
    super([], { type });
    this.#reader = reader;
    this.#begin = begin;
    this.#end = end;
    this.#watcher = watcher;
  }

  override get size(): number {
    return this.#end - this.#begin;
  }

  /** As `Blob.slice`: negative positions count from the end, positions past it are the end. */
  override slice(start = 0, end = this.size, type = ""): FileBlob {
    const place = (at: number) => at < 0 ? Math.max(0, this.size + at) : Math.min(at, this.size);
    const [from, to] = [place(start), place(end)];
    return new FileBlob(this.#reader, {
      begin: this.#begin + from,
      end: this.#begin + Math.max(from, to),
      type,
      watcher: this.#watcher,
    });
  }

  /** The same bytes, with someone to hear of its streams. */
  watched(watcher: BlobWatcher): FileBlob {
    return new FileBlob(this.#reader, {
      begin: this.#begin,
      end: this.#end,
      type: this.type,
      watcher,
    });
  }

  /** A fresh stream from the first byte on; nothing is read before it is asked for. */
  override stream(): ReadableStream<Uint8Array<ArrayBuffer>> {
    let at = this.#begin;
    return new ReadableStream<Uint8Array<ArrayBuffer>>({
      pull: async (controller) => {
        if (at < this.#end) {
          const to = Math.min(this.#end, at + READ_BYTES);
          controller.enqueue(await this.#read(at, to));
          this.#watcher?.taken(to - at);
          at = to;
        }
        if (at === this.#end) controller.close();
      },
    }, { highWaterMark: 0 });
  }

  override async bytes(): Promise<Uint8Array<ArrayBuffer>> {
    return await this.#read(this.#begin, this.#end);
  }

  override async arrayBuffer(): Promise<ArrayBuffer> {
    return (await this.bytes()).buffer;
  }

  override async text(): Promise<string> {
    return new TextDecoder().decode(await this.bytes());
  }

  async #read(begin: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
    try {
      return await this.#reader.read(begin, end);
    } catch (fault) {
      this.#watcher?.failed(fault);
      throw fault;
    }
  }
}

/** A text, read as a file is. */
export function textReader(text: string): DiskReader {
  const bytes = new TextEncoder().encode(text);
  return {
    size: bytes.length,
    read: (begin, end) => Promise.resolve(bytes.slice(begin, end)),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
