/**
 * One weight file of a repository, and the ways to its bytes: by range from the Hub, from a copy on
 * this machine that is complete or still arriving, from the user's cache. Whatever is given out is
 * remembered until it was checked against the repository's hash.
 */
import { HubError, quote } from "../errors.ts";
import type { HubClient, HubFile, Span } from "../hub/client.ts";
import type { NetworkThread } from "../hub/network_thread.ts";
import type { Buffers } from "../hub/buffer_pool.ts";
import type { Disk, DiskReader } from "../io/disk.ts";
import { sha256 } from "../io/digest.ts";
import type { Unchecked } from "../source.ts";
import type { HashThread } from "./hash_thread.ts";
import { type Handed, StreamCheck } from "./hub_check.ts";
import { BATCH, type BatchBytes, batches, Copy } from "./hub_copy.ts";

/** Bytes that are fetched first: most headers are shorter. */
const HEAD = 64 * 2 ** 10;

/** What all shards of a source share. */
export interface ShardContext {
  readonly client: HubClient;
  readonly disk: Disk;
  readonly signal: AbortSignal;
  readonly hashes: HashThread;
  readonly network: NetworkThread;
  /** Bytes of a span from which on the network's thread reads it: it takes 30 ms to start. */
  readonly largeSpan: number;
  /** Each is for a batch. */
  readonly buffers: Buffers;
}

/** A weight file. */
export class Shard {
  readonly file: HubFile;
  readonly #context: ShardContext;
  /** Where the user's cache has it. */
  readonly #cached: string | undefined;
  /** Whether the whole file will be seen one day, so that parts are worth remembering. */
  readonly #checkable: boolean;
  #cachedReader: Promise<DiskReader> | undefined;
  #cachedCheck: Promise<void> | undefined;
  #copy: Copy | undefined;
  /** Settles when the copy is complete and its hash was found right, or with what went wrong. */
  #copied: Promise<void> | undefined;
  #head: Promise<Uint8Array<ArrayBuffer>> | undefined;
  /** Given out, and not checked yet. */
  #handed: Handed[] = [];
  /** Given out of a copy whose hash is not known yet; absent where nobody will ask. */
  #served: Omit<Unchecked, "file">[] | undefined;
  #cachedRight = false;
  /** Digests of spans that are right, kept from a copy that had to go. */
  readonly #known = new Map<string, string>();

  constructor(
    file: HubFile,
    { cached, checkable, ...context }: ShardContext & {
      readonly cached: string | undefined;
      readonly checkable: boolean;
    },
  ) {
    this.#checkable = checkable;
    this.file = file;
    this.#cached = cached;
    this.#context = context;
  }

  get isCached(): boolean {
    return this.#cached !== undefined;
  }

  /** Whether the cached file was compared with the repository's hash, or is being. */
  get isChecked(): boolean {
    return this.#cachedCheck !== undefined;
  }

  /** Whether there is a copy, complete or growing. */
  get isStaged(): boolean {
    return this.#copy !== undefined;
  }

  /** Whether the copy is complete, right, and nobody reads it just now. */
  get isIdle(): boolean {
    return this.#copy?.isIdle === true;
  }

  /** Whether bytes were given out of which `check` has something to say. */
  get isUnchecked(): boolean {
    return this.#handed.length > 0 || this.#copy?.isServed === true ||
      this.#cachedReader !== undefined;
  }

  /**
   * Whether what is still to be read may come by range without harm, its right digests being known.
   */
  get isKnown(): boolean {
    return this.#known.size > 0;
  }

  /** Settles when the copy or the check that is under way has ended. */
  async settled(): Promise<void> {
    await Promise.allSettled([this.#copied, this.#cachedCheck]);
  }

  /** Bytes at the start, for the header. Few requests: the first fetches more than is asked for. */
  async readHead(span: Span): Promise<Uint8Array<ArrayBuffer>> {
    if (this.isCached) return await this.#readCached(span);
    this.#head ??= this.#readRange({ begin: 0, end: Math.min(HEAD, this.file.size) });
    const head = await this.#head;
    const { begin, end } = span;
    if (end <= head.length) return head.slice(begin, end);
    const rest = await this.#readRange({ begin: head.length, end });
    const bytes = new Uint8Array(end - begin);
    bytes.set(head.subarray(begin));
    bytes.set(rest, head.length - begin);
    return bytes;
  }

  /** The header was read; its bytes need not be kept. */
  forgetHead(): void {
    this.#head = undefined;
  }

  /** Bytes, by the shortest way that there is; see `DiskReader.read`. */
  async read<B extends ArrayBufferLike = ArrayBuffer>(
    span: Span,
    into?: Uint8Array<B>,
  ): Promise<Uint8Array<ArrayBuffer | B>> {
    if (span.begin === span.end) return new Uint8Array();
    if (this.isCached) return await this.#readCached(span, into);
    const copy = this.#copy;
    const bytes = await copy?.read(span, into);
    if (!bytes) return await this.#readRange(span, into);
    // Only while the network is what is waited for: else the copy was there before.
    if (!copy!.isRight) this.#served?.push({ ...span, sha256: sha256(bytes) });
    return bytes;
  }

  /** From now on `unchecked` tells what was given out of a copy, too. */
  keepServed(): void {
    this.#served ??= [];
  }

  /** What was given out and not checked yet, where it can be. */
  unchecked(): Unchecked[] {
    const { path: file } = this.file;
    if (this.isCached) {
      // Whatever was read of it: the file is what will be looked at.
      return this.#cachedReader && !this.#cachedRight
        ? [{ file, begin: 0, end: 0, sha256: sha256(new Uint8Array()) }]
        : [];
    }
    const handed = this.#handed.flatMap(({ begin, end, arrived }) =>
      arrived === undefined ? [] : [{ file, begin, end, sha256: arrived }]
    );
    return [...handed, ...this.#served?.map((span) => ({ file, ...span })) ?? []];
  }

  /** Check what an earlier process was given, too, where it can be. */
  recheck({ begin, end, sha256 }: Unchecked): void {
    if (this.isCached) this.#openCached();
    if (!this.isCached && !this.#checkable) return;
    this.#handed.push({ begin, end, digest: Promise.resolve(sha256), arrived: sha256 });
  }

  async #readCached<B extends ArrayBufferLike = ArrayBuffer>(
    { begin, end }: Span,
    into?: Uint8Array<B>,
  ): Promise<Uint8Array<ArrayBuffer | B>> {
    return await (await this.#openCached()).read(begin, end, into);
  }

  #openCached(): Promise<DiskReader> {
    return this.#cachedReader ??= this.#context.disk.open(this.#cached!);
  }

  async #readRange<B extends ArrayBufferLike = ArrayBuffer>(
    span: Span,
    into?: Uint8Array<B>,
  ): Promise<Uint8Array<ArrayBuffer | B>> {
    const { promise, resolve } = Promise.withResolvers<string | undefined>();
    const known = this.#known.get(keyOf(span));
    // Remembered before they arrive: a copy that is begun meanwhile must compare them too.
    const handed: Handed = { ...span, digest: promise };
    if (this.#checkable && known === undefined) this.#handed.push(handed);
    let digest: string | undefined;
    try {
      for (let again = false;; again = true) {
        const bytes = await this.#context.client.read(this.file, { ...this.#ways(span), into });
        if (this.#checkable) digest = sha256(bytes);
        if (known === undefined || known === digest) return bytes;
        if (again) {
          throw new HubError(
            `Cannot use ${quote(this.file.path)} of ${quote(this.file.repo.id)}: bytes ` +
              `${span.begin} to ${span.end} are others than they were in the whole file, whose ` +
              `hash was right. They were damaged on their way: run the same command again.`,
            { kind: "damaged" },
          );
        }
      }
    } finally {
      handed.arrived = digest;
      resolve(digest);
    }
  }

  /**
   * Begin a copy at `path`, for the reads that are `planned`; they go there from now on. Resolves
   * when it has ended, well or not: `check` tells.
   */
  async stage(path: string, planned: readonly Span[]): Promise<void> {
    const { size } = this.file;
    const copy = new Copy(path, { ...this.#context, size, planned });
    this.#copy = copy;
    this.#copied = this.#fill(copy);
    try {
      await this.#copied;
      copy.settle();
      if (this.#served) this.#served = [];
    } catch (error) {
      // Told to those who read the copy or ask whether it was right.
      copy.settle({ error });
    }
  }

  async #fill(copy: Copy): Promise<void> {
    for (let again = false;; again = true) {
      try {
        await this.#checked((check) =>
          copy.fill(this.#stream(), async (batch) => await check.update(batch))
        );
        return;
      } catch (fault) {
        const wrong = fault instanceof HubError && fault.kind === "damaged";
        // As long as nobody has had a byte of it, a damaged file can be fetched once more.
        if (!wrong || again || copy.isServed) throw fault;
        await copy.startAgain();
      }
    }
  }

  /** The whole file from the Hub, in buffers. */
  #stream(): AsyncGenerator<BatchBytes, void, undefined> {
    const whole = { begin: 0, end: this.file.size };
    return this.#context.client.stream(this.file, this.#ways(whole));
  }

  /** How bytes come from the Hub: small spans by this thread. */
  #ways(span: Span) {
    const { signal, largeSpan, network, buffers } = this.#context;
    const isLarge = span.end - span.begin >= largeSpan;
    return { ...span, signal, buffers, by: isLarge ? network.fetching : undefined };
  }

  /**
   * Remove the copy. The right digests of `later` are kept, so that those bytes can be read by
   * range and still be checked.
   */
  async unstage(later: readonly Span[] = []): Promise<void> {
    const copy = this.#copy!;
    for (const span of later) {
      const digest = await copy.digest(span);
      if (digest !== undefined) this.#known.set(keyOf(span), digest);
    }
    // From here on bytes come by range; reads that began before are let finish.
    this.#copy = this.#copied = undefined;
    await copy.remove();
  }

  /**
   * Resolves when all that was given out was compared with the repository's hash: waits for the
   * copy, or reads the file once more.
   *
   * @throws {HubError} it is not what the repository promises, or could not be read to the end.
   */
  async check(): Promise<void> {
    await this.#copied;
    if (this.isCached) {
      if (this.#cachedReader) await this.checkCached();
    } else if (this.#handed.length > 0) {
      await this.#checked((check) => this.#follow(this.#stream(), check));
    }
  }

  /** Read the whole file by `read`, and compare it with what was given out so far. */
  async #checked(read: (check: StreamCheck) => Promise<void>): Promise<void> {
    // What is given out from here on is not followed, and is left to the next check.
    const handed = [...this.#handed];
    const check = new StreamCheck(this.file, { ...this.#context, handed });
    try {
      await read(check);
    } catch (fault) {
      await check.giveUp();
      throw fault;
    }
    await check.finish();
    this.#handed = this.#handed.filter((span) => !check.handed.includes(span));
  }

  /** Have every byte seen. */
  async #follow(chunks: AsyncIterable<BatchBytes>, check: StreamCheck): Promise<void> {
    const { buffers } = this.#context;
    for await (const batch of batches(chunks, buffers)) buffers.give(await check.update(batch));
  }

  /** Compare the user's cache with the repository's hash. Read once. */
  async checkCached(): Promise<void> {
    this.#cachedCheck ??= this.#hashCached();
    await this.#cachedCheck;
  }

  async #hashCached(): Promise<void> {
    await this.#checked((check) => this.#follow(this.#cachedBytes(), check));
    this.#cachedRight = true;
  }

  async *#cachedBytes(): AsyncGenerator<BatchBytes, void, undefined> {
    const { signal, buffers } = this.#context;
    for (let begin = 0; begin < this.file.size; begin += BATCH) {
      signal.throwIfAborted();
      const end = Math.min(this.file.size, begin + BATCH);
      yield await this.#readCached({ begin, end }, buffers.take().subarray(0, end - begin));
    }
  }

  /** Close and remove what is on this machine. The transfers must have been aborted. */
  async close(): Promise<void> {
    await this.settled();
    await (await this.#cachedReader)?.[Symbol.asyncDispose]();
    await this.#copy?.remove();
  }
}

function keyOf({ begin, end }: Span): string {
  return `${begin}-${end}`;
}
