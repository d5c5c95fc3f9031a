/** A sink that gathers what one unit writes, whatever the file, one piece after another. */
import { sha256 } from "../io/digest.ts";
import type { Disk, DiskWriter } from "../io/disk.ts";
import type { PlannedFile } from "../plan/planned.ts";
import type { Sink, SinkFile } from "../sink.ts";
import type { StoredUnit } from "./work_job.ts";

/** Where a unit's bytes are gathered, and what becomes of them. */
export interface UnitPlace {
  readonly disk: Disk;
  /** A file that is not there yet; removed again unless the unit is finished. */
  readonly path: string;
  readonly files: readonly PlannedFile[];
  /** Bytes of the unit without the heads of files. */
  readonly size: number;
  /** Makes known what is written and flushed; the file is its own from now on. */
  readonly store: (unit: StoredUnit) => Promise<void>;
}

/** See the head of this file. */
export class UnitWriter implements Sink {
  readonly label = "a unit";
  readonly #writer: DiskWriter;
  readonly #heads: ReadonlyMap<string, number>;
  readonly #place: UnitPlace;
  readonly #pieces: { file: string; begin: number; end: number; sha256: string }[] = [];
  #end = 0;
  #closed = false;
  #stored = false;

  private constructor(writer: DiskWriter, place: UnitPlace) {
    this.#writer = writer;
    this.#heads = new Map(place.files.map(({ path, head }) => [path, head.length]));
    this.#place = place;
  }

  /** @throws {SpaceError} the system refuses the file. */
  static async create(place: UnitPlace): Promise<UnitWriter> {
    const { disk, path, size } = place;
    return new UnitWriter(await disk.create(path, size, { lasting: true }), place);
  }

  create(path: string): Promise<SinkFile> {
    const head = this.#heads.get(path) ?? 0;
    return Promise.resolve({
      write: async (offset: number, bytes: Uint8Array) => {
        // Whoever puts units together writes the heads of files.
        if (offset < head || bytes.length === 0) return;
        const at = this.#end;
        this.#end += bytes.length;
        this.#pieces.push({
          file: path,
          begin: offset,
          end: offset + bytes.length,
          sha256: sha256(bytes),
        });
        await this.#writer.write(at, bytes);
      },
      sync: () => Promise.resolve(),
      commit: () => Promise.resolve(),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    });
  }

  commit(): Promise<void> {
    return Promise.resolve();
  }

  /** All is written: make it known. */
  async finish(unit: Omit<StoredUnit, "pieces">): Promise<void> {
    const { size, store } = this.#place;
    if (this.#end !== size) {
      throw new RangeError(`A unit has ${this.#end} bytes, ${size} were planned`);
    }
    await this.#writer.sync();
    await this.#close();
    await store({ ...unit, pieces: this.#pieces });
    this.#stored = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#stored) return;
    const { disk, path } = this.#place;
    await this.#close();
    // Whoever was to store it may have come as far as to move it.
    if (await disk.lstat(path)) await disk.remove(path);
  }

  async #close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#writer[Symbol.asyncDispose]();
  }
}
