/**
 * The output of a run: planned files that fill up piece by piece, each committed when its last byte
 * is in.
 */
import { quote, RequestError } from "../errors.ts";
import { sha256 } from "../io/digest.ts";
import { WRITE_BEHIND_BYTES } from "../limits.ts";
import type { PlannedFile, Sidecar } from "../plan/planned.ts";
import type { Reporter } from "../report.ts";
import type { Sink, SinkFile, Span } from "../sink.ts";
import type { TensorSource } from "../source.ts";
import type { Trace } from "../trace.ts";

interface OpenFile {
  readonly planned: PlannedFile;
  file: Promise<SinkFile> | undefined;
  /** Bytes that have not been written yet, header included. */
  left: number;
}

/** Bytes of an output file that were written. */
export interface StoredPiece extends Span {
  readonly file: string;
  /** In hex; null where hashing would have taken too much of the time. */
  readonly sha256: string | null;
}

/**
 * Writes tensors to the places the plan gave them, behind the computation: a write is waited for
 * only when too many are under way.
 */
export class Output implements AsyncDisposable {
  readonly #sink: Sink;
  readonly #report: Reporter;
  readonly #trace: Trace;
  readonly #places = new Map<
    string,
    { readonly open: OpenFile; readonly begin: number; readonly size: number }
  >();
  readonly #files: OpenFile[];
  readonly #pending = new Map<Promise<void>, number>();
  /** What was written since it was last asked for, where a run can go on with it. */
  #pieces: StoredPiece[] = [];
  /** Seconds that hashing has taken, and the share of the time that it may take. */
  #hashing = 0;
  readonly #hashShare: number;
  /** Files that were written to since the last flush. */
  readonly #unflushed = new Set<OpenFile>();

  constructor(
    files: readonly PlannedFile[],
    { sink, report, trace, hashShare = 0 }: {
      sink: Sink;
      report: Reporter;
      trace: Trace;
      hashShare?: number;
    },
  ) {
    this.#sink = sink;
    this.#report = report;
    this.#trace = trace;
    this.#hashShare = hashShare;
    this.#files = files.map((planned) => ({ planned, file: undefined, left: planned.size }));
    for (const open of this.#files) {
      for (const { name, begin, end } of open.planned.tensors) {
        this.#places.set(name, { open, begin, size: end - begin });
      }
    }
  }

  /**
   * Write bytes of an output tensor, from `offset` of its data on. A fault of a write is thrown by
   * a later call.
   *
   * @throws {RangeError} the plan has no such tensor, or fewer bytes for it.
   * @throws {SpaceError} the disk is full.
   */
  async write(tensor: string, offset: number, bytes: Uint8Array): Promise<void> {
    const place = this.#places.get(tensor);
    if (!place || offset + bytes.length > place.size) {
      throw new RangeError(
        `Cannot write "${tensor}": the plan has ${
          place?.size ?? 0
        } bytes for it, got bytes ${offset} to ${offset + bytes.length}`,
      );
    }
    if (!place.open.file && this.#sink.stored?.crowded) await this.#settle(0);
    if (this.#sink.resumption) this.#note(place.open, place.begin + offset, bytes);
    const work = () => this.#put(place.open, place.begin + offset, bytes);
    const task = this.#trace.transfer("write", bytes.length, work);
    // Whoever waits next is told of a fault; until then it must not count as unhandled.
    task.catch(() => {});
    this.#pending.set(task, bytes.length);
    await this.#settle(WRITE_BEHIND_BYTES);
  }

  /** Write bytes of a file that another machine made. */
  async place(path: string, begin: number, bytes: Uint8Array): Promise<void> {
    const open = this.#files.find(({ planned }) => planned.path === path);
    if (!open) throw new RangeError(`Cannot write "${path}": the plan has no such file`);
    await this.#trace.transfer("write", bytes.length, () => this.#put(open, begin, bytes));
  }

  #note(open: OpenFile, begin: number, bytes: Uint8Array): void {
    const { path: file } = open.planned;
    this.#pieces.push({ file, begin, end: begin + bytes.length, sha256: this.#hashOf(bytes) });
    this.#unflushed.add(open);
  }

  /** The hash of bytes, unless hashing has had its share of the time. */
  #hashOf(bytes: Uint8Array): string | null {
    if (this.#hashing > this.#hashShare * this.#trace.seconds) return null;
    const begun = this.#trace.seconds;
    const hash = sha256(bytes);
    this.#hashing += this.#trace.seconds - begun;
    return hash;
  }

  /** What was written since this was last asked. */
  takePieces(): StoredPiece[] {
    const pieces = this.#pieces;
    this.#pieces = [];
    return pieces;
  }

  /** Wait until everything written is on the disk. */
  async flush(): Promise<void> {
    await this.#settle(0);
    for (const { file } of this.#unflushed) await (await file)?.sync();
    this.#unflushed.clear();
    await this.#sink.resumption?.sync();
  }

  /**
   * Take over what an earlier run has written, once it is seen that it is there. What else it
   * began is removed, for it takes room.
   *
   * @throws {RequestError} it is not.
   */
  async takeOver(pieces: readonly StoredPiece[]): Promise<void> {
    const sink = this.#sink.resumption!;
    const counted = Map.groupBy(pieces, ({ file }) => file);
    for (const { planned: { path } } of this.#files) {
      if (!counted.has(path)) await this.#sink.stored?.free(path);
    }
    for (const [path, spans] of counted) {
      const open = this.#files.find(({ planned }) => planned.path === path);
      if (!open) throw new RangeError(`Cannot go on with "${path}": the plan has no such file`);
      const { head, size } = open.planned;
      const file = await sink.reopen(path, size, spans);
      open.file = Promise.resolve(file);
      await file.write(0, head);
      open.left -= head.length;
      for (const { begin, end, sha256: written } of spans) {
        if (
          written !== null && !file.elsewhere &&
          sha256(await this.#sink.stored!.read(path, { begin, end })) !== written
        ) {
          throw new RequestError(
            `Cannot go on with ${quote(path)}: its bytes ${begin} to ${end} are not those that ` +
              "were written. Begin anew with `restart`.",
          );
        }
        open.left -= end - begin;
      }
      if (open.left === 0) await file.commit();
    }
  }

  /** All bytes of a tensor that was written, maybe by an earlier run. */
  async read(tensor: string): Promise<Uint8Array<ArrayBuffer>> {
    const { open, begin, size } = this.#places.get(tensor)!;
    return await this.#sink.stored!.read(open.planned.path, { begin, end: begin + size });
  }

  async #put(open: OpenFile, at: number, bytes: Uint8Array): Promise<void> {
    const file = await this.#open(open);
    await file.write(at, bytes);
    await this.#filled(open, bytes.length);
  }

  /** Wait until at most `most` bytes are under way, the oldest first. */
  async #settle(most: number): Promise<void> {
    let bytes = [...this.#pending.values()].reduce((sum, size) => sum + size, 0);
    for (const [task, size] of this.#pending) {
      if (bytes <= most) return;
      await task;
      this.#pending.delete(task);
      bytes -= size;
    }
  }

  #open(open: OpenFile): Promise<SinkFile> {
    open.file ??= this.#create(open);
    return open.file;
  }

  async #create(open: OpenFile): Promise<SinkFile> {
    const { path, size, head } = open.planned;
    const file = await this.#sink.create(path, size);
    await file.write(0, head);
    open.left -= head.length;
    return file;
  }

  async #filled(open: OpenFile, bytes: number): Promise<void> {
    open.left -= bytes;
    if (open.left > 0) return;
    const { path, size } = open.planned;
    if (open.left < 0) {
      throw new RangeError(
        `Cannot finish "${path}": ${-open.left} bytes more than planned were written`,
      );
    }
    await (await this.#open(open)).commit();
    this.#report({ type: "committed", path, bytes: size });
  }

  /**
   * Write the files beside the weights; all is whole then, and only to be made visible (`commit`).
   *
   * @throws {RangeError} a planned tensor was not written whole.
   */
  async finish(
    sidecars: readonly Sidecar[],
    source: Pick<TensorSource, "readFile">,
  ): Promise<void> {
    await this.#settle(0);
    for (const open of this.#files) {
      if (open.file && open.left === 0) continue;
      // A file of no tensors, or of empty ones, has only its header.
      await this.#open(open);
      await this.#filled(open, 0);
      if (open.left > 0) {
        throw new RangeError(
          `Cannot finish "${open.planned.path}": ${open.left} planned bytes were not written`,
        );
      }
    }
    for (const { path, size, bytes } of sidecars) {
      await using file = await this.#sink.create(path, size);
      await file.write(0, bytes ?? await source.readFile(path));
      await file.commit();
      this.#report({ type: "committed", path, bytes: size });
    }
  }

  /** Make everything visible under its final name. */
  async commit(): Promise<void> {
    await this.#sink.commit();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#pending.keys());
    for (const { file } of this.#files) {
      const [opened] = await Promise.allSettled([file]);
      if (opened.status === "fulfilled") await opened.value?.[Symbol.asyncDispose]();
    }
  }
}
