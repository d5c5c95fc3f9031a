/**
 * The Hub's read endpoints: pin a revision to a commit, list its files, read bytes of them in
 * ranges. Everything is asked of the pinned commit, every answer is checked, and what breaks off
 * goes on where it stopped. Refused: Xet's own protocol (the Hub serves every file over plain HTTP
 * too), answers that are not exactly what was asked for.
 */
import { HubError, quote } from "../errors.ts";
import type { Reporter } from "../report.ts";
import { readEntry, readPin, wrongIdentity, wrongSpan } from "./answers.ts";
import { createFileHash, type HubFile, type PinnedRepo, type Span } from "./file.ts";
import type { Fetching } from "./fetching.ts";
import type { Ask } from "./refusals.ts";
import { formatRepoSpec, type RepoSpec } from "./repo_spec.ts";
import { BufferPool, type Buffers } from "./buffer_pool.ts";
import { type Reply, TransientFault, Transport, type TransportOptions } from "./transport.ts";
import { size } from "../size.ts";

export { createFileHash };
export type { FileHash, HubFile, PinnedRepo, Span } from "./file.ts";

/** How to reach the Hub. */
export interface HubClientOptions extends TransportOptions {
  /** Hears of long waits and of renamed repositories. */
  readonly report?: Reporter;
}

/** Bytes of one page of JSON. */
const JSON_LIMIT = 64 * 2 ** 20;
/** Bytes that a connection has at once, as much as the kernel lets wait. */
const BUFFER_BYTES = 256 * 2 ** 10;
const MAX_PAGES = 2000;
const MAX_FILES = 500_000;

/** Asks the Hub. */
export class HubClient {
  readonly #transport: Transport;
  readonly #report: Reporter;
  /** Where each file was last found, signed: good until storage says 403. */
  readonly #storage = new Map<string, URL>();

  /** @throws {RequestError} the endpoint cannot be used. */
  constructor(options: HubClientOptions) {
    this.#transport = new Transport(options);
    this.#report = options.report ?? (() => {});
  }

  get endpoint(): string {
    return this.#transport.endpoint;
  }

  get offline(): boolean {
    return this.#transport.offline;
  }

  /**
   * The commit that a revision is now. A renamed repository is followed, and reported.
   *
   * @throws {HubError} it is missing, private, gated; or the Hub cannot be asked.
   */
  async pin(repo: RepoSpec, { signal }: { signal?: AbortSignal } = {}): Promise<PinnedRepo> {
    const ask: Ask = { doing: `open ${quote(formatRepoSpec(repo))} on the Hub`, repo };
    const url = this.#api(repo, `revision/${encodeURIComponent(repo.revision ?? "main")}`);
    const { value } = await this.#json(url, { ask, signal });
    const found = readPin(value);
    if (!found) return this.#wrong(ask, "tells neither a commit nor a name", url);
    const { id, commit } = found;
    if (id !== repo.id) {
      this.#report({
        type: "warning",
        code: "renamed",
        message: `${quote(repo.id)} is now ${quote(id)} on the Hub. Use the new name.`,
      });
    }
    return { kind: repo.kind, id, revision: repo.revision, commit };
  }

  /**
   * Every file of a commit, in the Hub's order.
   *
   * @throws {HubError} the Hub cannot be asked, or its list is not one.
   */
  async files(repo: PinnedRepo, { signal }: { signal?: AbortSignal } = {}): Promise<HubFile[]> {
    const ask: Ask = { doing: `list the files of ${quote(repo.id)}`, repo };
    const files = new Map<string, HubFile>();
    const seen = new Set<string>();
    let next: URL | undefined = this.#api(repo, `tree/${repo.commit}?recursive=true`);
    while (next) {
      const url: URL = next;
      if (seen.has(url.href) || seen.size === MAX_PAGES) {
        return this.#wrong(ask, "gives a list of files that does not end", url);
      }
      seen.add(url.href);
      const { value, reply } = await this.#json(url, { ask, signal });
      if (!Array.isArray(value)) return this.#wrong(ask, "gives no list of files", url);
      for (const entry of value) {
        const file = readEntry(repo, entry);
        if (file === false) continue;
        if (!file || files.has(file.path) || files.size === MAX_FILES) {
          return this.#wrong(
            ask,
            file
              ? files.has(file.path)
                ? `lists ${quote(file.path)} twice`
                : `lists more than ${MAX_FILES} files`
              : `lists something that is no file: ${quote(JSON.stringify(entry))}`,
            url,
          );
        }
        files.set(file.path, file);
      }
      next = this.#nextPage(reply, ask);
    }
    return [...files.values()];
  }

  /**
   * Bytes of a file as they come, in order, each once. What breaks off is asked for again from
   * there.
   *
   * @param options.buffers Where they are put; see `Reply.body`.
   * @param options.by What makes the requests.
   * @throws {HubError} it cannot be had, or the answers are not those bytes' (hashes are for the
   * caller to check).
   */
  async *stream(
    file: HubFile,
    { begin, end, signal, buffers, by }: Span & {
      readonly signal?: AbortSignal | undefined;
      readonly buffers?: Buffers;
      readonly by?: Fetching | undefined;
    },
  ): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
    const ask: Ask = {
      doing: `read ${quote(file.path)} of ${quote(file.repo.id)}`,
      repo: file.repo,
      path: file.path,
    };
    const policy = this.#transport.retryPolicy(ask, signal);
    for (let at = begin; at < end;) {
      try {
        const reply = await this.#openSpan(file, { ask, begin: at, end, signal, by });
        for await (const chunk of reply.body(buffers)) {
          if (chunk.length > end - at) {
            throw this.#passing(`sent more than the ${end - begin} bytes asked for`, reply);
          }
          at += chunk.length;
          policy.progressed(chunk.length);
          yield chunk;
        }
        if (at < end) {
          throw this.#passing(
            `ended after ${at - begin} of ${end - begin} bytes`,
            reply,
            "unreachable",
          );
        }
      } catch (fault) {
        await policy.failed(fault);
      }
    }
  }

  /**
   * Bytes of a file. See `stream`.
   *
   * @param options.into Where they are put: as many bytes.
   */
  async read<B extends ArrayBufferLike = ArrayBuffer>(
    file: HubFile,
    { begin, end, signal, into, buffers = new BufferPool(BUFFER_BYTES), by }: Span & {
      readonly signal?: AbortSignal | undefined;
      readonly into?: Uint8Array<B> | undefined;
      readonly buffers?: Buffers;
      readonly by?: Fetching | undefined;
    },
  ): Promise<Uint8Array<ArrayBuffer | B>> {
    const bytes = into ?? new Uint8Array(end - begin);
    let filled = 0;
    for await (const chunk of this.stream(file, { begin, end, signal, buffers, by })) {
      bytes.set(chunk, filled);
      filled += chunk.length;
      buffers.give(chunk);
    }
    return bytes;
  }

  /**
   * All bytes of a small file, checked against its hash.
   *
   * @throws {HubError} also of kind `damaged`: twice it was not what the repository promises.
   */
  async readWhole(
    file: HubFile,
    { signal }: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<Uint8Array<ArrayBuffer>> {
    for (let again = false;; again = true) {
      const bytes = await this.read(file, { begin: 0, end: file.size, signal });
      const hex = createFileHash(file).update(bytes).digest("hex");
      if (hex === file.hash.hex) return bytes;
      if (again) throw this.damaged(file, hex);
    }
  }

  /** The error for bytes that hash to something else than the repository promises. */
  damaged(file: HubFile, found: string): HubError {
    const { repo, path, hash } = file;
    return this.#transport.error({ doing: `use ${quote(path)} of ${quote(repo.id)}` }, {
      kind: "damaged",
      found:
        `its ${hash.kind === "git" ? "git hash" : "SHA-256"} is ${found}, and the repository ` +
        `promises ${hash.hex}`,
      advice: "It was damaged on its way, or a proxy altered it: run the same command again.",
      url: this.#fileUrl(file),
    });
  }

  /** Ask for bytes of a file, and see that the answer is of exactly those. */
  async #openSpan(
    file: HubFile,
    { ask, begin, end, signal, by }: Span & {
      ask: Ask;
      signal: AbortSignal | undefined;
      by: Fetching | undefined;
    },
  ): Promise<Reply> {
    const key = `${file.repo.kind} ${file.repo.id} ${file.repo.commit} ${file.path}`;
    const known = this.#storage.get(key);
    const whole = begin === 0 && end === file.size;
    const headers = whole ? {} : { range: `bytes=${begin}-${end - 1}` };
    let reply: Reply;
    try {
      const url = known ?? this.#fileUrl(file);
      reply = await this.#transport.send(url, { ask, headers, signal, by });
    } catch (fault) {
      this.#storage.delete(key);
      const expired = this.#expired(fault, known !== undefined);
      throw expired ?? fault;
    }
    const fault = wrongIdentity(reply, file) ?? wrongSpan(reply, file, { begin, end, whole });
    if (fault !== undefined) {
      await reply.discard();
      this.#storage.delete(key);
      throw this.#passing(fault, reply);
    }
    if (!this.#transport.isHome(reply.url)) this.#storage.set(key, reply.url);
    return reply;
  }

  /** A refusal by storage: the signed address has expired, and the Hub will give another. */
  #expired(fault: unknown, wasKnown: boolean): TransientFault | undefined {
    if (!(fault instanceof HubError) || fault.url === undefined || fault.status === undefined) {
      return;
    }
    const url = URL.parse(fault.url);
    if (!url || this.#transport.isHome(url)) return;
    return new TransientFault({
      kind: "protocol",
      found: `${quote(url.host)}, where the Hub keeps the file, answers ${fault.status}`,
      advice: "Run the same command again.",
      status: fault.status,
      url,
    }, wasKnown ? 0 : undefined);
  }

  /** Ask for JSON. */
  async #json(
    url: URL,
    { ask, signal }: { ask: Ask; signal: AbortSignal | undefined },
  ): Promise<{ readonly value: unknown; readonly reply: Reply }> {
    const policy = this.#transport.retryPolicy(ask, signal);
    for (;;) {
      try {
        const reply = await this.#transport.send(url, {
          ask,
          headers: { accept: "application/json" },
          signal,
        });
        return { value: await this.#parse(reply), reply };
      } catch (fault) {
        await policy.failed(fault);
      }
    }
  }

  async #parse(reply: Reply): Promise<unknown> {
    const chunks: Uint8Array<ArrayBuffer>[] = [];
    let bytes = 0;
    for await (const chunk of reply.body()) {
      bytes += chunk.length;
      if (bytes > JSON_LIMIT) throw this.#passing(`sent more than ${size(JSON_LIMIT)}`, reply);
      chunks.push(chunk);
    }
    const length = reply.headers.get("content-length");
    if (length !== null && Number(length) !== bytes) {
      throw this.#passing(`ended after ${bytes} of ${length} bytes`, reply);
    }
    try {
      const text = new TextDecoder("utf-8", { fatal: true }).decode(
        new Uint8Array(await new Blob(chunks).arrayBuffer()),
      );
      return JSON.parse(text);
    } catch (cause) {
      if (!(cause instanceof SyntaxError || cause instanceof TypeError)) throw cause;
      throw this.#passing("sent something that is not JSON", reply);
    }
  }

  /** The page that `Link` says comes next: on the Hub itself, since the token goes along. */
  #nextPage({ headers, url }: Reply, ask: Ask): URL | undefined {
    const link = headers.get("link")?.split(/,(?=\s*<)/).find((part) =>
      /;\s*rel="?next"?/i.test(part)
    );
    if (link === undefined) return undefined;
    const next = URL.parse(/<([^>]*)>/.exec(link)?.[1] ?? "", url);
    if (next && this.#transport.isHome(next)) return next;
    return this.#wrong(ask, "says that the list of files goes on at another server", url);
  }

  #passing(
    found: string,
    { url, status }: Pick<Reply, "url" | "status">,
    kind: "protocol" | "unreachable" = "protocol",
  ): TransientFault {
    return new TransientFault({
      kind,
      found: `${quote(url.host)} ${found}`,
      advice: "Check the network, proxies and HF_ENDPOINT, then run the same command again.",
      status,
      url,
    });
  }

  #wrong(ask: Ask, found: string, url: URL): never {
    throw this.#transport.error(ask, {
      kind: "protocol",
      found: `${quote(url.host)} ${found}`,
      advice: "Check HF_ENDPOINT and proxies, then try again.",
      url,
    });
  }

  #api({ kind, id }: Pick<RepoSpec, "kind" | "id">, rest: string): URL {
    return new URL(`${this.endpoint}/api/${kind}s/${id}/${rest}`);
  }

  #fileUrl({ repo: { kind, id, commit }, path }: HubFile): URL {
    const segments = path.split("/").map((segment) => {
      // As a part of a URL these would lead out of the repository, and the token with them.
      if (segment === "" || segment === "." || segment === "..") {
        throw new RangeError(`Cannot ask for ${quote(path)}: it is no path of a file.`);
      }
      return encodeURIComponent(segment);
    });
    const prefix = kind === "dataset" ? "datasets/" : "";
    return new URL(`${this.endpoint}/${prefix}${id}/resolve/${commit}/${segments.join("/")}`);
  }
}
