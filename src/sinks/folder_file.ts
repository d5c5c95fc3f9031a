/** A file of an output that is not whole yet: what was written of it is known to the byte. */
import { quote } from "../errors.ts";
import type { DiskWriter } from "../io/disk.ts";
import type { SinkFile, Span } from "../sink.ts";

/** A file of a folder that is being filled. */
export class FolderFile implements SinkFile {
  readonly name: string;
  readonly #size: number;
  readonly #writer: DiskWriter;
  readonly #committed: () => void;
  /** What was written: spans in order, apart from each other. */
  #spans: readonly Span[];
  #open = true;

  /** @param options.spans What was written of it before. */
  constructor(
    name: string,
    size: number,
    { writer, spans = [], committed }: {
      readonly writer: DiskWriter;
      readonly spans?: readonly Span[];
      readonly committed: () => void;
    },
  ) {
    this.name = name;
    this.#size = size;
    this.#writer = writer;
    this.#committed = committed;
    this.#spans = spans.reduce<readonly Span[]>(union, []);
  }

  /** Bytes that were never written. */
  get unwritten(): number {
    return this.#spans.reduce((n, { begin, end }) => n - (end - begin), this.#size);
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    const end = offset + bytes.length;
    if (!this.#open || !Number.isSafeInteger(offset) || offset < 0 || end > this.#size) {
      throw new RangeError(
        this.#open
          ? `Cannot write bytes ${offset} to ${end} of ${quote(this.name)}: it has ${this.#size}.`
          : `Cannot write ${quote(this.name)}: it is closed.`,
      );
    }
    await this.#writer.write(offset, bytes);
    if (bytes.length > 0) this.#spans = union(this.#spans, { begin: offset, end });
  }

  async sync(): Promise<void> {
    // What is closed was synced before.
    if (this.#open) await this.#writer.sync();
  }

  async commit(): Promise<void> {
    if (!this.#open) throw new RangeError(`Cannot commit ${quote(this.name)}: it is closed.`);
    const missing = this.unwritten;
    if (missing > 0) {
      throw new RangeError(
        `Cannot commit ${quote(this.name)}: ${missing} of ${this.#size} bytes were not written.`,
      );
    }
    await this.#writer.sync();
    await this[Symbol.asyncDispose]();
    this.#committed();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.#writer[Symbol.asyncDispose]();
  }
}

/** Spans in order and apart from each other, with one more. */
function union(spans: readonly Span[], { begin, end }: Span): Span[] {
  const before = spans.filter((span) => span.end < begin);
  const after = spans.filter((span) => span.begin > end);
  for (const span of spans.slice(before.length, spans.length - after.length)) {
    begin = Math.min(begin, span.begin);
    end = Math.max(end, span.end);
  }
  return [...before, { begin, end }, ...after];
}
