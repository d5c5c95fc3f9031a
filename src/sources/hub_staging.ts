/**
 * Which weight files are on this machine, and when: fetched ahead in the order of reading, within a
 * budget of bytes, removed when their last tensor was read. A file that is needed while there is no
 * room is read by range, or another makes room for it, whichever costs fewer bytes of the network.
 */
import type { HubFile, Span } from "../hub/client.ts";
import type { Reporter } from "../report.ts";
import type { Unchecked } from "../source.ts";
import { Shard, type ShardContext } from "./hub_shard.ts";
import { type FileSpan, Uses } from "./hub_uses.ts";
import { size } from "../size.ts";

/** How files are kept. */
export interface StagingOptions extends ShardContext {
  readonly files: readonly HubFile[];
  /** Where the user's cache has some of them. */
  readonly cached: ReadonlyMap<string, string>;
  /** An empty folder for copies; without one every tensor is read by range. */
  readonly folder: string | undefined;
  /** Bytes of copies at any time. */
  readonly maxDisk: number;
  /** Files that are fetched at once. */
  readonly downloads: number;
  readonly report: Reporter;
  /** The repository, for messages. */
  readonly label: string;
}

/** Keeps the weight files of one repository. */
export class Staging implements AsyncDisposable {
  readonly #options: StagingOptions;
  readonly #shards: ReadonlyMap<string, Shard>;
  #uses: Uses | undefined;
  /** Bytes of copies, complete or not. */
  #used = 0;
  #copies = 0;
  /** Files that are being fetched or hashed. */
  #active = 0;
  /** Decisions are made one after another. */
  #turn: Promise<void> = Promise.resolve();
  /** What stopped a decision that nobody waited for. */
  #fault: { readonly error: unknown } | undefined;
  #told = false;
  #closed = false;

  constructor(options: StagingOptions) {
    this.#options = options;
    this.#shards = new Map(options.files.map((file) => [
      file.path,
      new Shard(file, {
        ...options,
        cached: options.cached.get(file.path),
        checkable: this.#mayHold(file),
      }),
    ]));
  }

  #mayHold({ size }: HubFile): boolean {
    return this.#options.folder !== undefined && size <= this.#options.maxDisk;
  }

  /** Bytes of a file's header. */
  async readHead(file: string, span: Span): Promise<Uint8Array<ArrayBuffer>> {
    return await this.#shards.get(file)!.readHead(span);
  }

  /** All headers were read. */
  forgetHeads(): void {
    for (const shard of this.#shards.values()) shard.forgetHead();
  }

  /** The order in which bytes will be read; fetching begins. */
  schedule(order: readonly FileSpan[]): void {
    const uses = this.#uses = new Uses(order);
    const large = uses.files().map((path) => this.#shards.get(path)!)
      .filter((shard) => !shard.isCached && !this.#mayHold(shard.file));
    if (large.length > 0) this.#warn(large.map(({ file }) => file));
    this.#goOn();
  }

  /** Bytes of a file; see `DiskReader.read`. */
  async read<B extends ArrayBufferLike = ArrayBuffer>(
    file: string,
    span: Span,
    into?: Uint8Array<B>,
  ): Promise<Uint8Array<ArrayBuffer | B>> {
    const shard = this.#shards.get(file)!;
    if (this.#fault) throw this.#fault.error;
    if (this.#isWanted(shard)) await this.#inTurn(() => this.#admit(shard));
    if (!this.#uses && !shard.isCached) this.#warn([shard.file]);
    const bytes = await shard.read(span, into);
    this.#uses?.consume({ file, ...span });
    if (this.#uses?.left(file) === 0) this.#goOn();
    return bytes;
  }

  /**
   * Resolves when every byte given out was compared with the hashes of the repository, but for
   * files that do not fit the budget.
   *
   * @throws {HubError} something is not what the repository promises.
   */
  async verified(): Promise<void> {
    await this.#turn;
    if (this.#fault) throw this.#fault.error;
    for (const shard of this.#shards.values()) {
      if (shard.isUnchecked && (shard.isCached || this.#uses)) await shard.check();
    }
  }

  /** What `verified` would still have to see to. */
  unchecked(): Unchecked[] {
    return [...this.#shards.values()].flatMap((shard) => shard.unchecked());
  }

  /** See to what an earlier process was given, too, and keep what a later one needs to. */
  recheck(given: readonly Unchecked[]): void {
    for (const shard of this.#shards.values()) shard.keepServed();
    for (const span of given) this.#shards.get(span.file)?.recheck(span);
  }

  /** Remove every copy. Transfers must have been aborted. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    await this.#turn;
    for (const shard of this.#shards.values()) await shard.close();
  }

  /** Whether a copy of a file should be made. */
  #isWanted(shard: Shard): boolean {
    return !this.#closed && !shard.isCached && !shard.isStaged && !shard.isKnown &&
      this.#mayHold(shard.file) &&
      this.#left(shard) > 0;
  }

  #left({ file }: Shard): number {
    return this.#uses?.left(file.path) ?? 0;
  }

  #hasRoom({ file }: Shard): boolean {
    return this.#used + file.size <= this.#options.maxDisk;
  }

  /** Remove what was read to the end, then fetch as many of the next files as there is room for. */
  async #fetchAhead(): Promise<void> {
    await this.#sweep();
    for (const path of this.#uses?.files() ?? []) {
      if (this.#active >= this.#options.downloads) return;
      const shard = this.#shards.get(path)!;
      if (shard.isCached) {
        if (!shard.isChecked) this.#begin(() => shard.checkCached());
      } else if (this.#isWanted(shard)) {
        if (!this.#hasRoom(shard)) return;
        this.#stage(shard);
      }
    }
  }

  /** A file is needed now: fetch it if there is room, or if making room is worth it. */
  async #admit(shard: Shard): Promise<void> {
    if (!this.#isWanted(shard)) return;
    await this.#sweep();
    if (!this.#hasRoom(shard)) await this.#makeRoom(shard);
    if (this.#hasRoom(shard)) this.#stage(shard);
  }

  #stage(shard: Shard): void {
    this.#used += shard.file.size;
    const path = `${this.#options.folder}/${this.#copies++}.part`;
    this.#begin(() => shard.stage(path, this.#uses!.spans(shard.file.path)));
  }

  /** Do something that takes its time, and see afterwards what comes next. */
  #begin(act: () => Promise<void>): void {
    this.#active++;
    const end = () => {
      this.#active--;
      this.#goOn();
    };
    // What went wrong is told to those who read the file, and by `verified`.
    act().then(end, end);
  }

  /** Remove copies that nobody will read again. */
  async #sweep(): Promise<void> {
    for (const shard of this.#shards.values()) {
      if (shard.isIdle && this.#left(shard) === 0) await this.#remove(shard);
    }
  }

  async #remove(shard: Shard): Promise<void> {
    // A file of which little is still to be read is not fetched again: those bytes come by range,
    // and are known.
    const spans = this.#uses?.spans(shard.file.path) ?? [];
    await shard.unstage(this.#left(shard) <= shard.file.size / 2 ? spans : []);
    this.#used -= shard.file.size;
  }

  /**
   * Remove the copies that are needed last, if reading the rest of them by range costs less than
   * reading by range what comes of `shard` until they are done.
   */
  async #makeRoom(shard: Shard): Promise<void> {
    const uses = this.#uses!;
    const others = [...this.#shards.values()].filter((other) => other.isStaged);
    // Read to the end, but still arriving, for its hash: there will be room without any loss.
    const ending = others.filter((other) => this.#left(other) === 0);
    for (const other of ending) await other.settled();
    if (ending.length > 0) await this.#sweep();
    const victims: Shard[] = [];
    let free = this.#options.maxDisk - this.#used;
    const byNextUse = others.filter((other) => other.isIdle)
      .sort((a, b) => uses.next(b.file.path) - uses.next(a.file.path));
    for (const other of byNextUse) {
      if (free >= shard.file.size) break;
      victims.push(other);
      free += other.file.size;
    }
    if (free < shard.file.size) return;
    const cost = victims.reduce((n, victim) => n + this.#left(victim), 0);
    const last = Math.max(-1, ...victims.map(({ file }) => uses.last(file.path)));
    if (cost >= uses.leftBefore(shard.file.path, last)) return;
    for (const victim of victims) await this.#remove(victim);
  }

  /** Say that hashes cannot be checked. */
  #warn(files: readonly HubFile[]): void {
    if (this.#told) return;
    this.#told = true;
    const { folder, maxDisk, label, report } = this.#options;
    const largest = Math.max(...files.map(({ size }) => size));
    report({
      type: "warning",
      code: "hash-unchecked",
      message: this.#uses && folder !== undefined
        ? `${files.length} of ${this.#shards.size} weight files of ${label} are larger than the ` +
          `${size(maxDisk)} of disk that may be used: their tensors are read by range, and their ` +
          `SHA-256 cannot be checked. With ${size(largest)} it could.`
        : `Tensors of ${label} are read by range: the SHA-256 of its files cannot be checked.`,
    });
  }

  /** See what comes next, when it is its turn; nothing does once the staging is closed. */
  #goOn(): void {
    if (this.#closed) return;
    this.#inTurn(() => this.#fetchAhead()).catch((error: unknown) => {
      this.#fault ??= { error };
    });
  }

  #inTurn(decide: () => Promise<void>): Promise<void> {
    const decision = this.#turn.then(decide);
    // The next decision comes after this one, whether it fails or not; its caller hears of the
    // failure from `decision`.
    this.#turn = decision.then(() => {}, () => {});
    return decision;
  }
}
