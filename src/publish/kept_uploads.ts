/**
 * Uploads of a folder that is published, remembered beside it until they are committed, so that the
 * same command sends no part again that storage has taken. Where nothing may be written beside it,
 * or another process publishes it, too, nothing is remembered.
 */
import { join, resolve } from "node:path";
import { quote, RequestError } from "../errors.ts";
import type { Disk } from "../io/disk.ts";
import { type JournalText, readJournal } from "../io/journal.ts";
import { UPLOAD_SUFFIX } from "../io/names.ts";
import { SpareJournal } from "../io/spare_journal.ts";
import { JournaledUploads, type UploadMemory } from "./upload_memory.ts";

const FILE = "uploads.jsonl";

/** See the head of this file. */
export class KeptUploads implements AsyncDisposable {
  readonly memory: UploadMemory;
  readonly #disk: Disk;
  readonly #place: string;
  readonly #journal: SpareJournal | undefined;
  readonly #held: AsyncDisposableStack;

  private constructor(
    disk: Disk,
    place: string,
    { to, journal, held }: {
      readonly to: string;
      readonly journal: SpareJournal | undefined;
      /** The lock, and then the journal. */
      readonly held: AsyncDisposableStack;
    },
  ) {
    this.#disk = disk;
    this.#place = place;
    this.#journal = journal;
    this.memory = new JournaledUploads(journal, to);
    this.#held = held;
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
    await using undo = new AsyncDisposableStack();
    const held = undo.use(new AsyncDisposableStack());
    /** Whether nobody else has it. */
    const lock = async () => {
      const lock = await disk.lock(path);
      if (lock && lock !== "impossible") held.use(lock);
      return lock !== undefined;
    };
    let known: JournalText | undefined;
    let mayKeep = await disk.mayWrite(place);
    if ((await disk.lstat(path))?.kind === "file") {
      if (!(await disk.isSecret(place))) {
        throw new RequestError(
          `Cannot go on by ${quote(place)}: it is open to others, which nothing of Sluice is. ` +
            "Remove it.",
        );
      }
      mayKeep &&= await lock();
      if (mayKeep) known = await readWhole(disk, path);
    }
    const begin = async () => {
      if (await disk.lstat(place)) return;
      await disk.makeFolder(place, { secret: true });
    };
    const began = async () => void await lock();
    const journal = mayKeep
      ? held.use(await SpareJournal.open(disk, path, { known, begin, began }))
      : undefined;
    undo.move();
    return new KeptUploads(disk, place, { to, journal, held });
  }

  /** Forget all: it is committed. */
  async remove(): Promise<void> {
    await this[Symbol.asyncDispose]();
    if (this.#journal?.isThere) await this.#disk.remove(this.#place, { recursive: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
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
