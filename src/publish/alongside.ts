/**
 * Uploading the weights of an output while it is made: a sink that sends each file to the Hub's
 * storage once it is finished, one after another, beside the computation. Nothing is committed: who
 * publishes the output afterwards finds there what was sent. Where the Hub cannot be reached, the
 * rest is left to that; unless the weights have little room here, and leave it when the Hub has
 * them: then nothing goes on without it.
 */
import { HubError, quote } from "../errors.ts";
import type { DiskReader } from "../io/disk.ts";
import { isWeights } from "../io/names.ts";
import type { RepoSpec } from "../hub/repo_spec.ts";
import type { TransportOptions } from "../hub/transport.ts";
import type { Reporter } from "../report.ts";
import type { Sink, SinkFile, StoredFiles } from "../sink.ts";
import { ELSEWHERE_FILE, elsewhereText } from "./elsewhere.ts";
import { FileBlob } from "./file_blob.ts";
import { hashBlob } from "./hash_blob.ts";
import { sendLargeFiles } from "./large_files.ts";
import type { Destination } from "./plan.ts";
import { createBranch, createRepo } from "./repository.ts";
import { Sender } from "./sender.ts";
import { JournaledUploads, type TakenFile } from "./upload_memory.ts";

/** A file of which the Hub has all bytes: they are made again, and forgotten. */
const ELSEWHERE: SinkFile = {
  elsewhere: true,
  write: () => Promise.resolve(),
  sync: () => Promise.resolve(),
  commit: () => Promise.resolve(),
  [Symbol.asyncDispose]: () => Promise.resolve(),
};

/** How to upload alongside. */
export interface AlongsideOptions {
  readonly hub: TransportOptions;
  /** Hears of each file that the Hub has, and of what is left for later. */
  readonly report?: Reporter;
  /** Ends waiting for uploads. */
  readonly signal?: AbortSignal | undefined;
  /**
   * Bytes that files of weights may have here: those that the Hub has are removed, and a new one
   * waits for room while others are on their way. Absent: all stay.
   */
  readonly room?: number | undefined;
  /** Files that stay here all the same. */
  readonly stays?: (path: string) => boolean;
}

/** Uploads that go on while an output is made. Disposing of it stops them. */
export class Alongside implements AsyncDisposable {
  /** The place of the output: what is finished there is sent. */
  readonly sink: Sink;
  readonly #files: Sink;
  readonly #stored: StoredFiles;
  readonly #destination: Destination;
  readonly #sender: Sender;
  readonly #repo: RepoSpec;
  readonly #report: Reporter;
  readonly #signal: AbortSignal | undefined;
  readonly #memory: JournaledUploads;
  readonly #stop = new AbortController();
  /** The last of the uploads, each of which begins when the one before is done. */
  #last: Promise<void> = Promise.resolve();
  #prepared = false;
  #fault: unknown;
  readonly #room: number | undefined;
  readonly #stays: (path: string) => boolean;
  /** Bytes of files of weights that are here, and the most so far. */
  #here = 0;
  #peak = 0;
  /** Files that wait to be sent, or are; and what resolves when one is done with. */
  #waiting = 0;
  #next = Promise.withResolvers<void>();

  /**
   * @param files Where the output grows.
   * @param destination Where it goes, as `checkPublish` found it.
   * @throws {RangeError} files cannot be read there.
   */
  constructor(
    files: Sink,
    destination: Destination,
    { hub, report = () => {}, signal, room, stays = () => false }: AlongsideOptions,
  ) {
    this.#room = room;
    this.#stays = stays;
    if (!files.stored) {
      throw new RangeError(`Cannot upload from ${quote(files.label)}: no file can be read there.`);
    }
    this.#files = files;
    this.#stored = files.stored;
    this.#destination = destination;
    this.#sender = new Sender({ ...hub, report });
    this.#report = report;
    this.#signal = signal;
    const { repo: id, branch, url } = destination;
    this.#repo = { kind: "model", id, revision: branch };
    this.#memory = new JournaledUploads(files.resumption, url);
    this.sink = this.#watched(files);
  }

  /** Files that the Hub has, by path. */
  get taken(): ReadonlyMap<string, TakenFile> {
    return this.#memory.taken;
  }

  /** The most bytes of weights that were here at once. */
  get peakBytes(): number {
    return this.#peak;
  }

  /** Whether the repository was made for these uploads. */
  get created(): boolean {
    return this.#prepared && this.#destination.newRepo;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new Error("The output is not made any more."));
    await this.#last;
  }

  #watched(files: Sink): Sink {
    const watch = async (
      path: string,
      size: number,
      open: () => Promise<SinkFile>,
    ): Promise<SinkFile> => {
      if (!isWeights(path)) return await open();
      if (this.taken.get(path)?.freed) {
        await this.#stored.free(path);
        return ELSEWHERE;
      }
      await this.#makeRoom(size);
      const file = await open();
      return {
        write: (offset, bytes) => file.write(offset, bytes),
        sync: () => file.sync(),
        commit: async () => {
          await file.commit();
          this.#waiting++;
          this.#last = this.#last.then(() => this.#attempt(path, size));
        },
        [Symbol.asyncDispose]: () => file[Symbol.asyncDispose](),
      };
    };
    const { resumption } = files;
    return {
      ...files,
      stored: { ...this.#stored, ...(this.#room === undefined ? {} : { crowded: true }) },
      ...(resumption
        ? {
          resumption: {
            ...resumption,
            reopen: (path, size, spans) =>
              watch(path, size, () => resumption.reopen(path, size, spans)),
          },
        }
        : {}),
      create: (path, size) => watch(path, size, () => files.create(path, size)),
      commit: async () => {
        await this.#settle(this.#last);
        this.#refuseFault();
        await this.#tellElsewhere();
        await files.commit();
      },
    };
  }

  /** Wait until there is room for a file, as far as uploads can make some. */
  async #makeRoom(size: number): Promise<void> {
    if (this.#room !== undefined) {
      while (this.#waiting > 0 && this.#here + size > this.#room) {
        await this.#settle(Promise.race([this.#last, this.#next.promise]));
      }
      this.#refuseFault();
    }
    this.#here += size;
    this.#peak = Math.max(this.#peak, this.#here);
  }

  /** Say in the output what of it is on the Hub alone. */
  async #tellElsewhere(): Promise<void> {
    const files = [...this.taken.values()].filter(({ freed }) => freed);
    if (files.length === 0) return;
    const bytes = new TextEncoder().encode(elsewhereText({ to: this.#destination.url, files }));
    await using file = await this.#files.create(ELSEWHERE_FILE, bytes.length);
    await file.write(0, bytes);
    await file.commit();
  }

  /** @throws what stopped the uploads, unless it can be made up for later. */
  #refuseFault(): void {
    if (this.#fault === undefined) return;
    if (this.#room === undefined && this.#fault instanceof HubError) return;
    throw this.#fault;
  }

  /** Wait for uploads, until the run is to stop. */
  async #settle(uploads: Promise<void>): Promise<void> {
    const stop = () => this.#stop.abort(this.#signal!.reason);
    if (this.#signal?.aborted) stop();
    this.#signal?.addEventListener("abort", stop);
    try {
      await uploads;
    } finally {
      this.#signal?.removeEventListener("abort", stop);
    }
    this.#signal?.throwIfAborted();
  }

  /** Send a file, unless one before it could not be sent. */
  async #attempt(path: string, size: number): Promise<void> {
    try {
      if (this.#fault !== undefined || this.#stop.signal.aborted) return;
      await this.#send(path, size);
      this.#report({ type: "uploaded", path, bytes: size });
    } catch (fault) {
      if (this.#stop.signal.aborted) return;
      this.#fault = fault;
      if (!(fault instanceof HubError) || this.#room !== undefined) return;
      this.#report({
        type: "warning",
        code: "upload-postponed",
        message: `${fault.message} What is left is sent when everything is made.`,
      });
    } finally {
      this.#waiting--;
      this.#next.resolve();
      this.#next = Promise.withResolvers();
    }
  }

  async #send(path: string, size: number): Promise<void> {
    const { signal } = this.#stop;
    const sender = this.#sender, repo = this.#repo;
    const ask = { doing: `publish to ${quote(repo.id)}`, repo };
    const blob = new FileBlob(this.#reader(path, size));
    const oid = await hashBlob(blob, { signal });
    await this.#prepare();
    const ignore = () => {};
    const options = { sender, repo, ask, signal, sent: ignore, present: ignore };
    await sendLargeFiles([{ oid, size, blob }], { ...options, memory: this.#memory });
    const freed = this.#room !== undefined && !this.#stays(path);
    // Noted first: what is not here any more must be known to be there.
    await this.#memory.finished({ path, oid, size, freed });
    if (!freed) return;
    await this.#stored.free(path);
    this.#here -= size;
  }

  /** Make the repository and the branch, where there are none. */
  async #prepare(): Promise<void> {
    if (this.#prepared) return;
    const asking = { sender: this.#sender, repo: this.#repo, signal: this.#stop.signal };
    const { newRepo, newBranch, visibility } = this.#destination;
    if (newRepo) await createRepo(asking, visibility);
    if (newBranch) await createBranch(asking);
    this.#prepared = true;
  }

  #reader(path: string, size: number): DiskReader {
    return {
      size,
      read: (begin, end) => this.#stored.read(path, { begin, end }),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
  }
}
