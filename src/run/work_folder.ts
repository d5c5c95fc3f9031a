/**
 * The folder where machines meet that share a plan: what job it is, what each unit came to, and
 * who is at which. A unit is two files, its bytes and then, as the sign that they are whole, a
 * record with their SHA-256; each is written under a name of its own, flushed, and renamed. Doing a
 * unit twice therefore changes nothing, and leases only spare work:
 *
 *   job.json  units/00007.bin  units/00007.json  leases/00007.0/holder.json
 */
import { join, resolve } from "node:path";
import { quote, RequestError } from "../errors.ts";
import { sha256 } from "../io/digest.ts";
import { type Disk, type DiskWriter, makeFolders } from "../io/disk.ts";
import { putWhole, readWhole } from "../io/whole_files.ts";
import { isObject, parseObject } from "../json.ts";
import type { Sink, SinkFile } from "../sink.ts";
import type { PlannedFile } from "../plan/planned.ts";
import { sum } from "../tensor.ts";
import type { Ingredients } from "./key.ts";
import { isLeased, takeLease } from "./leases.ts";
import type { FinishedUnit } from "./saves.ts";
import { ShardFiles } from "./shard_files.ts";

/** What is to be done: `job.json`. */
export interface WorkJob {
  readonly job: 1;
  /** Of what the result depends on; see run/key.ts. */
  readonly key: string;
  readonly ingredients: Ingredients;
  /** The model and the flags that the plan was made with, as words of a command line. */
  readonly words: readonly string[];
  /** The recipe, which a file of `words` may not hold any more; as a recipe file has it. */
  readonly recipe: Readonly<Record<string, unknown>>;
  readonly units: readonly string[];
}

/** The record of a unit that is done; its pieces lie one after another in its bytes. */
export interface StoredUnit extends Omit<FinishedUnit, "distributions" | "windows"> {
  readonly unit: 1;
  readonly key: string;
}

/** What a folder says of its job. */
export const JOB_FILE = "job.json";

/** See the head of this file. */
export class WorkFolder {
  readonly path: string;
  readonly job: WorkJob;
  /** What workers that calibrate together exchange. */
  readonly shards: ShardFiles;
  readonly #disk: Disk;

  private constructor(disk: Disk, path: string, job: WorkJob) {
    this.#disk = disk;
    this.path = path;
    this.job = job;
    this.shards = new ShardFiles(disk, path);
  }

  /**
   * Make the folder of a job, or find that it is there already.
   *
   * @throws {RequestError} something else is there.
   */
  static async create(disk: Disk, path: string, job: WorkJob): Promise<WorkFolder> {
    const place = resolve(path);
    if (await disk.lstat(join(place, JOB_FILE))) {
      const found = await WorkFolder.open(disk, path);
      if (found.job.key === job.key) return found;
      throw new RequestError(
        `Cannot use ${quote(path)} to work in: another job is in it. Give another folder, or ` +
          "remove that one.",
      );
    }
    if ((await disk.lstat(place)) && (await disk.list(place)).length > 0) {
      throw new RequestError(
        `Cannot use ${quote(path)} to work in: it is not empty. Give a new folder.`,
      );
    }
    await using undo = new AsyncDisposableStack();
    await makeParts(disk, place, undo);
    const folder = new WorkFolder(disk, place, job);
    await putWhole(disk, join(place, JOB_FILE), JSON.stringify(job, null, 1));
    undo.move();
    return folder;
  }

  /** @throws {RequestError} there is no job, or it is of another version. */
  static async open(disk: Disk, path: string): Promise<WorkFolder> {
    const place = resolve(path);
    const text = await readWhole(disk, join(place, JOB_FILE));
    if (text === undefined) {
      throw new RequestError(
        `Cannot work in ${
          quote(path)
        }: there is no ${JOB_FILE}, which a plan with \`work-dir\` makes.`,
      );
    }
    const root = parseObject(text);
    const sound = root?.job === 1 && typeof root.key === "string" && isObject(root.ingredients) &&
      isWords(root.words) && isWords(root.units) && isObject(root.recipe);
    if (!sound) {
      throw new RequestError(
        `Cannot work in ${quote(path)}: its ${JOB_FILE} is not what this version of Sluice writes.`,
      );
    }
    await using made = new AsyncDisposableStack();
    await makeParts(disk, place, made);
    made.move();
    return new WorkFolder(disk, place, root as unknown as WorkJob);
  }

  /** The record of a unit; undefined where it is not done, or its bytes are not all there. */
  async done(index: number): Promise<StoredUnit | undefined> {
    const text = await readWhole(this.#disk, this.#unit(index, "json"));
    if (text === undefined) return undefined;
    const root = parseObject(text);
    if (root?.unit === 1 && root.key === this.job.key) {
      const unit = root as unknown as StoredUnit;
      const found = await this.#disk.lstat(this.#unit(index, "bin"));
      return found?.kind === "file" && found.size === bytesIn(unit) ? unit : undefined;
    }
    throw new RequestError(
      `Cannot use ${quote(this.#unit(index, "json"))}: it is not of this job. Remove it, and ` +
        "have the unit done again.",
    );
  }

  /**
   * Take a unit, or something else by its name, for some time, renewed until the lease is disposed
   * of; undefined where another worker has it.
   */
  async lease(what: number | string): Promise<AsyncDisposable | undefined> {
    return await takeLease(this.#disk, join(this.path, "leases"), nameOf(what));
  }

  /** Whether some worker has it. */
  async isLeased(what: number | string): Promise<boolean> {
    return await isLeased(this.#disk, join(this.path, "leases"), nameOf(what));
  }

  /** Where a unit's bytes are gathered, `size` of them without the heads of files. */
  async gather(
    index: number,
    { files, size }: { readonly files: readonly PlannedFile[]; readonly size: number },
  ): Promise<UnitWriter> {
    const temporary = `${this.#unit(index, "bin")}-${crypto.randomUUID().slice(0, 8)}`;
    const writer = await this.#disk.create(temporary, size, { lasting: true });
    const heads = new Map(files.map(({ path, head }) => [path, head.length]));
    return new UnitWriter(writer, heads, {
      size,
      store: async (unit) => {
        await this.#disk.rename(temporary, this.#unit(index, "bin"));
        await putWhole(this.#disk, this.#unit(index, "json"), JSON.stringify(unit));
      },
      drop: () => this.#disk.remove(temporary),
    });
  }

  /**
   * The pieces of a unit, one after another.
   *
   * @throws {RequestError} bytes are not those that were written.
   */
  async *pieces(
    index: number,
    { pieces }: StoredUnit,
  ): AsyncGenerator<{ readonly file: string; readonly begin: number; readonly bytes: Uint8Array }> {
    const path = this.#unit(index, "bin");
    await using reader = await this.#disk.open(path);
    let at = 0;
    for (const { file, begin, end, sha256: written } of pieces) {
      const bytes = await reader.read(at, at += end - begin);
      if (sha256(bytes) !== written) {
        throw new RequestError(
          `Cannot take over ${
            quote(path)
          }: its bytes are not those that were written. Remove it, ` +
            "and have the unit done again.",
        );
      }
      yield { file, begin, bytes };
    }
  }

  /** Remove what workers have left that is not of units, once all are done. */
  async sweep(): Promise<void> {
    await this.shards.removeAll();
    for (const kind of ["units", "leases"]) {
      const folder = join(this.path, kind);
      for (const name of await this.#disk.list(folder)) {
        if (!/-[0-9a-f]{8}$/.test(name)) continue;
        await this.#disk.remove(join(folder, name), { recursive: true });
      }
    }
  }

  #unit(index: number, kind: "bin" | "json"): string {
    return join(this.path, "units", `${nameOf(index)}.${kind}`);
  }
}

/** A sink that gathers what one unit writes, whatever the file, one piece after another. */
export class UnitWriter implements Sink {
  readonly label = "a unit";
  readonly #writer: DiskWriter;
  readonly #heads: ReadonlyMap<string, number>;
  readonly #size: number;
  readonly #store: (unit: StoredUnit) => Promise<void>;
  readonly #drop: () => Promise<void>;
  readonly #pieces: { file: string; begin: number; end: number; sha256: string }[] = [];
  #end = 0;
  #stored = false;

  constructor(
    writer: DiskWriter,
    heads: ReadonlyMap<string, number>,
    { size, store, drop }: {
      readonly size: number;
      readonly store: (unit: StoredUnit) => Promise<void>;
      readonly drop: () => Promise<void>;
    },
  ) {
    this.#writer = writer;
    this.#heads = heads;
    this.#size = size;
    this.#store = store;
    this.#drop = drop;
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
    if (this.#end !== this.#size) {
      throw new RangeError(`A unit has ${this.#end} bytes, ${this.#size} were planned`);
    }
    await this.#writer.sync();
    await this.#writer[Symbol.asyncDispose]();
    await this.#store({ ...unit, pieces: this.#pieces });
    this.#stored = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#stored) return;
    await this.#writer[Symbol.asyncDispose]();
    await this.#drop();
  }
}

/** Make the folders in a job's, where they are not there: copying tools leave out empty ones. */
async function makeParts(disk: Disk, path: string, undo: AsyncDisposableStack): Promise<void> {
  for (const name of ["units", "leases"]) await makeFolders(disk, join(path, name), undo);
}

/** Bytes of all pieces of a unit. */
function bytesIn({ pieces }: StoredUnit): number {
  return sum(pieces, ({ begin, end }) => end - begin);
}

/** A unit's number, or a name as it is. */
function nameOf(what: number | string): string {
  return String(what).padStart(5, "0");
}

function isWords(value: unknown): boolean {
  return Array.isArray(value) && value.every((word) => typeof word === "string");
}
