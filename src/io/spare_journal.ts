/**
 * A journal that is there to spare work and no more: it begins with its first record, and where the
 * system refuses one, nothing is kept from then on.
 */
import { dirname } from "node:path";
import { SpaceError } from "../errors.ts";
import type { Disk } from "./disk.ts";
import { type Journal, type JournalText, openJournal } from "./journal.ts";

/** See the head of this file. */
export class SpareJournal implements AsyncDisposable {
  readonly #disk: Disk;
  readonly #path: string;
  readonly #begin: () => Promise<void>;
  readonly #began: () => Promise<void>;
  readonly #refused: (error: SpaceError) => void;
  /** What it held when it was opened. */
  readonly records: readonly unknown[];
  /** Undefined where there is none yet, or it was closed. */
  #open: Journal | undefined;
  #isThere: boolean;
  #isOver = false;

  private constructor(disk: Disk, path: string, journal: Journal | undefined, how: SpareOptions) {
    this.#disk = disk;
    this.#path = path;
    this.#open = journal;
    this.#isThere = journal !== undefined;
    this.records = [...journal?.records ?? []];
    const nothing = () => Promise.resolve();
    this.#begin = how.begin ?? nothing;
    this.#began = how.began ?? nothing;
    this.#refused = how.refused ?? (() => {});
  }

  /**
   * @param options.known What was read of it; absent where there is none.
   * @throws {SpaceError} the system refuses to open it.
   */
  static async open(
    disk: Disk,
    path: string,
    { known, ...how }: SpareOptions & { readonly known: JournalText | undefined },
  ): Promise<SpareJournal> {
    const journal = known && await openJournal(disk, path, known);
    return new SpareJournal(disk, path, journal, how);
  }

  /** Whether there is one. */
  get isThere(): boolean {
    return this.#isThere;
  }

  /** Whether all that was to be kept is in it. */
  get isKept(): boolean {
    return this.#isThere && !this.#isOver;
  }

  async append(record: unknown): Promise<void> {
    if (this.#isOver) return;
    try {
      if (!this.#open) {
        await this.#begin();
        this.#open = await openJournal(this.#disk, this.#path);
        this.#isThere = true;
        await this.#disk.syncFolder(dirname(this.#path));
        await this.#began();
      }
      await this.#open.append(record);
    } catch (error) {
      if (!(error instanceof SpaceError)) throw error;
      this.#isOver = true;
      this.#refused(error);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOver = true;
    const journal = this.#open;
    this.#open = undefined;
    await journal?.[Symbol.asyncDispose]();
  }
}

/** How such a journal is kept. */
export interface SpareOptions {
  /** Makes what it is to lie in. */
  readonly begin?: () => Promise<void>;
  /** Called when its file was made. */
  readonly began?: () => Promise<void>;
  /** Told once that nothing is kept any more. */
  readonly refused?: (error: SpaceError) => void;
}
