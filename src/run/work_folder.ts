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
import { type Disk, makeFolders } from "../io/disk.ts";
import { putWhole, readWhole } from "../io/whole_files.ts";
import type { PlannedFile } from "../plan/planned.ts";
import { isLeased, leaseHolders, takeLease } from "./leases.ts";
import type { ShardPlace, Share, UnitPiece } from "./meeting_place.ts";
import { ShardFiles } from "./shard_files.ts";
import { UnitWriter } from "./unit_writer.ts";
import {
  bytesIn,
  JOB_FILE,
  nameOf,
  otherBytes,
  parseJob,
  parseUnit,
  type StoredUnit,
  type WorkJob,
} from "./work_job.ts";

/** See the head of this file. */
export class WorkFolder implements ShardPlace {
  readonly path: string;
  readonly job: WorkJob;
  /** What workers that calibrate together exchange. */
  readonly shards: ShardFiles;
  readonly together: ShardPlace = this;
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
    const job = parseJob(text, path);
    await using made = new AsyncDisposableStack();
    await makeParts(disk, place, made);
    made.move();
    return new WorkFolder(disk, place, job);
  }

  async undone(): Promise<number[]> {
    const open = [];
    for (const i of this.job.units.keys()) if (!await this.done(i)) open.push(i);
    return open;
  }

  /** Undefined, too, where the bytes of the unit are not all there. */
  async done(index: number): Promise<StoredUnit | undefined> {
    const path = this.#unit(index, "json");
    const text = await readWhole(this.#disk, path);
    if (text === undefined) return undefined;
    const unit = parseUnit(text, this.job, path);
    const found = await this.#disk.lstat(this.#unit(index, "bin"));
    return found?.kind === "file" && found.size === bytesIn(unit) ? unit : undefined;
  }

  async holders(): Promise<ReadonlyMap<number, string>> {
    const leases = await leaseHolders(this.#disk, join(this.path, "leases"));
    const units = [...leases].filter(([name]) => /^\d+$/.test(name));
    return new Map(units.map(([name, holder]) => [Number(name), holder]));
  }

  /** Its own share first, then whatever nobody is at. */
  async *turns({ index, count }: Share): AsyncGenerator<readonly number[]> {
    for (const wants of [(unit: number) => unit % count === index, () => true]) {
      const wanted = (await this.undone()).filter(wants);
      if (wanted.length > 0) yield wanted;
    }
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

  async gather(
    index: number,
    planned: { readonly files: readonly PlannedFile[]; readonly size: number },
  ): Promise<UnitWriter> {
    const path = `${this.#unit(index, "bin")}-${crypto.randomUUID().slice(0, 8)}`;
    return await UnitWriter.create({
      ...planned,
      disk: this.#disk,
      path,
      store: async (unit) => {
        await this.#disk.rename(path, this.#unit(index, "bin"));
        await putWhole(this.#disk, this.#unit(index, "json"), JSON.stringify(unit));
      },
    });
  }

  async *pieces(index: number, { pieces }: StoredUnit): AsyncGenerator<UnitPiece> {
    const path = this.#unit(index, "bin");
    await using reader = await this.#disk.open(path);
    let at = 0;
    for (const { file, begin, end, sha256: written } of pieces) {
      const bytes = await reader.read(at, at += end - begin);
      if (sha256(bytes) !== written) throw otherBytes(path);
      yield { file, begin, bytes };
    }
  }

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

/** Make the folders in a job's, where they are not there: copying tools leave out empty ones. */
async function makeParts(disk: Disk, path: string, undo: AsyncDisposableStack): Promise<void> {
  for (const name of ["units", "leases"]) await makeFolders(disk, join(path, name), undo);
}
