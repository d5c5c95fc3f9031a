/**
 * Units that are done and on their way to a repository: the bytes of each are sent at once, beside
 * the unit that is being made, and then are not here any more; commits, of which the Hub allows
 * few, name several. At most one unit waits to be sent, so that what it takes of the disk is
 * bounded.
 */
import { HubError } from "../errors.ts";
import type { Disk } from "../io/disk.ts";
import { FileBlob, textReader } from "../publish/file_blob.ts";
import { hashBlob } from "../publish/hash_blob.ts";
import { sendLargeFiles } from "../publish/large_files.ts";
import type { Content } from "../publish/upload.ts";
import { bytesIn, type StoredUnit } from "../run/work_job.ts";
import type { Look, SharedRepository } from "./repository.ts";
import { hasUnit, unitPath } from "./unit_files.ts";

/** Milliseconds that the last commit may take when a worker is stopped. */
const LAST_WORD = 20_000;

/** See the head of this file. */
export class Outbox implements AsyncDisposable {
  readonly #repository: SharedRepository;
  readonly #disk: Disk;
  readonly #signal: AbortSignal | undefined;
  /** Units whose bytes the Hub has, in no commit yet. */
  readonly #sent = new Map<number, { readonly bytes: Content; readonly record: FileBlob }>();
  #sending: Promise<void> = Promise.resolve();
  #fault: unknown;
  #committed: number;
  #bytes = 0;
  /** Milliseconds between commits. */
  apart = 0;
  /** The first line of commits. */
  title = "Units of a job";

  constructor(
    repository: SharedRepository,
    { disk, signal }: { readonly disk: Disk; readonly signal: AbortSignal | undefined },
  ) {
    this.#repository = repository;
    this.#disk = disk;
    this.#signal = signal;
    this.#committed = -Infinity;
  }

  /** Bytes of units that were sent. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Whether a unit is on its way. */
  has(index: number): boolean {
    return this.#sent.has(index);
  }

  /**
   * Send a unit, once the one before is sent.
   *
   * @param path Its bytes; removed when they are sent.
   * @throws what stopped the one before.
   */
  async add(index: number, path: string, unit: StoredUnit): Promise<void> {
    await this.settled();
    this.#sending = this.#send(index, path, unit).catch((fault) => {
      this.#fault = fault;
    });
  }

  /** Wait until all is sent. @throws what stopped that. */
  async settled(): Promise<void> {
    await this.#sending;
    if (this.#fault !== undefined) throw this.#fault;
  }

  /**
   * Commit what was sent, and more with it.
   *
   * @param more Other files, for what is there now.
   */
  async commit(
    more: (look: Look) => Promise<ReadonlyMap<string, Content>> = () => Promise.resolve(new Map()),
    signal = this.#signal,
  ): Promise<void> {
    let named: readonly number[] = [];
    await this.#repository.change(this.title, async (look) => {
      named = [...this.#sent.keys()];
      const contents = new Map(await more(look));
      for (const [index, { bytes, record }] of this.#sent) {
        // Another has done it, too: what is there stays.
        if (hasUnit(look, index)) continue;
        contents.set(unitPath(index, "bin"), bytes);
        contents.set(unitPath(index, "json"), record);
      }
      return contents;
    }, signal);
    this.#committed = this.#now();
    for (const index of named) this.#sent.delete(index);
  }

  /** Commit what was sent, if there is time for that. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#sending;
    if (this.#sent.size === 0) return;
    try {
      await this.commit(undefined, AbortSignal.timeout(LAST_WORD));
    } catch (fault) {
      // It is made again, and what stopped the worker is told already.
      if (!(fault instanceof HubError || fault instanceof DOMException)) throw fault;
    }
  }

  async #send(index: number, path: string, unit: StoredUnit): Promise<void> {
    const size = bytesIn(unit);
    let bytes: Content;
    try {
      bytes = size === 0 ? new FileBlob(textReader("")) : await this.#deliver(path, size);
    } finally {
      await this.#disk.remove(path);
    }
    this.#sent.set(index, { bytes, record: new FileBlob(textReader(JSON.stringify(unit))) });
    if (this.#now() - this.#committed >= this.apart) await this.commit();
  }

  async #deliver(path: string, size: number): Promise<{ oid: string; size: number }> {
    const { sender, repo } = this.#repository;
    const signal = this.#signal;
    await using reader = await this.#disk.open(path);
    const blob = new FileBlob(reader);
    const oid = await hashBlob(blob, { signal });
    await sendLargeFiles([{ oid, size, blob }], {
      sender,
      repo,
      ask: { doing: `send a unit to "${repo.id}"`, repo },
      signal,
      sent: (bytes) => this.#bytes += bytes,
      present: () => {},
    });
    return { oid, size };
  }

  #now(): number {
    return this.#repository.timing.now();
  }
}
