/** The output of a run: planned files that fill up piece by piece, each committed when its last byte is in. */
import type { PlannedFile, Sidecar } from "./plan.ts";
import type { Reporter } from "./report.ts";
import type { Sink, SinkFile } from "./sink.ts";
import type { TensorSource } from "./source.ts";

interface OpenFile {
  readonly planned: PlannedFile;
  file: SinkFile | undefined;
  /** Bytes that have not been written yet, header included. */
  left: number;
}

/** Writes tensors to the places the plan gave them. */
export class Output implements AsyncDisposable {
  readonly #sink: Sink;
  readonly #report: Reporter;
  readonly #places = new Map<
    string,
    { readonly open: OpenFile; readonly begin: number; readonly size: number }
  >();
  readonly #files: OpenFile[];

  constructor(files: readonly PlannedFile[], { sink, report }: { sink: Sink; report: Reporter }) {
    this.#sink = sink;
    this.#report = report;
    this.#files = files.map((planned) => ({ planned, file: undefined, left: planned.size }));
    for (const open of this.#files) {
      for (const { name, begin, end } of open.planned.tensors) {
        this.#places.set(name, { open, begin, size: end - begin });
      }
    }
  }

  /**
   * Write bytes of an output tensor, from `offset` of its data on.
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
    const file = await this.#open(place.open);
    await file.write(place.begin + offset, bytes);
    await this.#filled(place.open, bytes.length);
  }

  async #open(open: OpenFile): Promise<SinkFile> {
    if (!open.file) {
      const { path, size, head } = open.planned;
      open.file = await this.#sink.create(path, size);
      await open.file.write(0, head);
      open.left -= head.length;
    }
    return open.file;
  }

  async #filled(open: OpenFile, bytes: number): Promise<void> {
    open.left -= bytes;
    if (open.left > 0 || !open.file) return;
    const { path, size } = open.planned;
    if (open.left < 0) {
      throw new RangeError(
        `Cannot finish "${path}": ${-open.left} bytes more than planned were written`,
      );
    }
    await open.file.commit();
    this.#report({ type: "committed", path, bytes: size });
  }

  /**
   * Write the files beside the weights, then make everything visible.
   *
   * @throws {RangeError} a planned tensor was not written whole.
   */
  async commit(
    sidecars: readonly Sidecar[],
    source: Pick<TensorSource, "readFile">,
  ): Promise<void> {
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
    await this.#sink.commit();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { file } of this.#files) await file?.[Symbol.asyncDispose]();
  }
}
