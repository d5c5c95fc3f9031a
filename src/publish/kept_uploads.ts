/**
 * Uploads of a folder that is published, remembered beside it until they are committed, so that the
 * same command sends no part again that storage has taken. Where nothing may be written beside it,
 * or another process publishes it, too, nothing is remembered.
 */
import { join, resolve } from "node:path";
import { quote, RequestError, SpaceError } from "../errors.ts";
import type { Disk } from "../io/disk.ts";
import { type Journal, openJournal, readJournal } from "../io/journal.ts";
import { UPLOAD_SUFFIX } from "../io/names.ts";
import { JournaledUploads, type UploadMemory } from "./upload_memory.ts";

const FILE = "uploads.jsonl";

/** See the head of this file. */
export class KeptUploads implements AsyncDisposable {
  readonly memory: UploadMemory;
  readonly #disk: Disk;
  readonly #place: string;
  readonly #held = new AsyncDisposableStack();
  /** Undefined where there is none yet. */
  #journal: Journal | undefined;
  #impossible: boolean;

  private constructor(
    disk: Disk,
    place: string,
    { to, journal, impossible }: {
      readonly to: string;
      readonly journal: Journal | undefined;
      readonly impossible: boolean;
    },
  ) {
    this.#disk = disk;
    this.#place = place;
    this.#journal = journal;
    this.#impossible = impossible;
    const records = journal?.records ?? [];
    this.memory = new JournaledUploads({ records, append: (record) => this.#append(record) }, to);
  }

  /**
   * What is remembered of a folder.
   *
   * @param options.to The repository with the Hub's address.
   * @throws {RequestError} it is damaged, or others could have written it.
   */
  static async open(
    disk: Disk,
    folder: string,
    { to }: { readonly to: string },
  ): Promise<KeptUploads> {
    const place = `${resolve(folder)}${UPLOAD_SUFFIX}`;
    const path = join(place, FILE);
    const given = { to, journal: undefined, impossible: !(await disk.mayWrite(place)) };
    if ((await disk.lstat(path))?.kind !== "file") return new KeptUploads(disk, place, given);
    if (!(await disk.isSecret(place))) {
      throw new RequestError(
        `Cannot go on by ${quote(place)}: it is open to others, which nothing of Sluice is. ` +
          "Remove it.",
      );
    }
    const lock = await disk.lock(path);
    if (!lock) return new KeptUploads(disk, place, { ...given, impossible: true });
    const journal = await openJournal(disk, path, await readWhole(disk, path));
    const kept = new KeptUploads(disk, place, { ...given, journal });
    if (lock !== "impossible") kept.#held.use(lock);
    return kept;
  }

  /** Forget all: it is committed. */
  async remove(): Promise<void> {
    if (!this.#journal) return;
    await this[Symbol.asyncDispose]();
    await this.#disk.remove(this.#place, { recursive: true });
  }

  async #append(record: unknown): Promise<void> {
    if (this.#impossible) return;
    try {
      this.#journal ??= await this.#begin();
      await this.#journal?.append(record);
    } catch (error) {
      // It is there to spare work and no more.
      if (!(error instanceof SpaceError)) throw error;
      this.#impossible = true;
    }
  }

  async #begin(): Promise<Journal | undefined> {
    const path = join(this.#place, FILE);
    if (!(await this.#disk.lstat(this.#place))) {
      await this.#disk.makeFolder(this.#place, { secret: true });
    }
    const journal = await openJournal(this.#disk, path);
    const lock = await this.#disk.lock(path);
    if (lock && lock !== "impossible") this.#held.use(lock);
    return journal;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#journal?.[Symbol.asyncDispose]();
    this.#journal = undefined;
    this.#impossible = true;
    await this.#held.disposeAsync();
  }
}

async function readWhole(disk: Disk, path: string) {
  try {
    return await readJournal(disk, path);
  } catch (cause) {
    if (!(cause instanceof RequestError)) throw cause;
    throw new RequestError(
      `Cannot go on by ${
        quote(path)
      }: it is damaged. Remove its folder, and all is sent that the ` +
        "Hub does not have.",
      { cause },
    );
  }
}
