/**
 * Uploading the weights of an output while it is made: a sink that sends each file to the Hub's
 * storage once it is finished, one after another, beside the computation. Nothing is committed: who
 * publishes the output afterwards finds there what was sent. Where the Hub cannot be reached, the
 * rest is left to that.
 */
import { HubError, quote } from "../errors.ts";
import type { DiskReader } from "../io/disk.ts";
import { isWeights } from "../io/names.ts";
import type { RepoSpec } from "../hub/repo_spec.ts";
import type { TransportOptions } from "../hub/transport.ts";
import type { Reporter } from "../report.ts";
import type { Sink, SinkFile } from "../sink.ts";
import { FileBlob } from "./file_blob.ts";
import { hashBlob } from "./hash_blob.ts";
import { sendLargeFiles } from "./large_files.ts";
import type { Destination } from "./plan.ts";
import { createBranch, createRepo } from "./repository.ts";
import { Sender } from "./sender.ts";
import { JournaledUploads, type TakenFile } from "./upload_memory.ts";

/** How to upload alongside. */
export interface AlongsideOptions {
  readonly hub: TransportOptions;
  /** Hears of each file that the Hub has, and of what is left for later. */
  readonly report?: Reporter;
  /** Ends waiting for uploads when everything is made. */
  readonly signal?: AbortSignal | undefined;
}

/** Uploads that go on while an output is made. Disposing of it stops them. */
export class Alongside implements AsyncDisposable {
  /** The place of the output: what is finished there is sent. */
  readonly sink: Sink;
  readonly #files: Sink;
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

  /** @param destination Where it goes, as `checkPublish` found it. */
  constructor(
    files: Sink,
    destination: Destination,
    { hub, report = () => {}, signal }: AlongsideOptions,
  ) {
    this.#files = files;
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

  /** Whether the repository was made for these uploads. */
  get created(): boolean {
    return this.#prepared && this.#destination.newRepo;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new Error("The output is not made any more."));
    await this.#last;
  }

  #watched(files: Sink): Sink {
    const watch = (path: string, size: number, file: SinkFile): SinkFile => {
      if (!isWeights(path)) return file;
      return {
        write: (offset, bytes) => file.write(offset, bytes),
        sync: () => file.sync(),
        commit: async () => {
          await file.commit();
          this.#last = this.#last.then(() => this.#attempt(path, size));
        },
        [Symbol.asyncDispose]: () => file[Symbol.asyncDispose](),
      };
    };
    const { resumption } = files;
    return {
      ...files,
      ...(resumption
        ? {
          resumption: {
            ...resumption,
            reopen: async (path, size, spans) =>
              watch(path, size, await resumption.reopen(path, size, spans)),
          },
        }
        : {}),
      create: async (path, size) => watch(path, size, await files.create(path, size)),
      commit: async () => {
        await this.#settle();
        await files.commit();
      },
    };
  }

  /** Wait for all uploads. @throws what stopped them, unless it can be made up for later. */
  async #settle(): Promise<void> {
    const stop = () => this.#stop.abort(this.#signal!.reason);
    if (this.#signal?.aborted) stop();
    this.#signal?.addEventListener("abort", stop);
    try {
      await this.#last;
    } finally {
      this.#signal?.removeEventListener("abort", stop);
    }
    this.#signal?.throwIfAborted();
    if (this.#fault !== undefined && !(this.#fault instanceof HubError)) throw this.#fault;
  }

  /** Send a file, unless one before it could not be sent. */
  async #attempt(path: string, size: number): Promise<void> {
    if (this.#fault !== undefined || this.#stop.signal.aborted) return;
    try {
      await this.#send(path, size);
      this.#report({ type: "uploaded", path, bytes: size });
    } catch (fault) {
      if (this.#stop.signal.aborted) return;
      this.#fault = fault;
      if (!(fault instanceof HubError)) return;
      this.#report({
        type: "warning",
        code: "upload-postponed",
        message: `${fault.message} What is left is sent when everything is made.`,
      });
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
    await this.#memory.finished({ path, oid, size });
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
      read: (begin, end) => this.#files.read(path, { begin, end }),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
  }
}
