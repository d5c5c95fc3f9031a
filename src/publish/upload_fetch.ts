/**
 * The `fetch` that `commitIter` of `@huggingface/hub` is given. The package knows the order of the
 * calls; here each call gets what the package leaves out: repetition, redirects by hand, the token
 * at home only, checks of every answer, LFS's `verify`, and a commit that happens once. Calls that
 * the package should not make are refused.
 */
import { createHash } from "node:crypto";
import { quote } from "../errors.ts";
import type { Ask } from "../hub/refusals.ts";
import { type CommitCall, commitOnce } from "./commit_once.ts";
import { FileBlob } from "./file_blob.ts";
import { isObject } from "../json.ts";
import { type Call, LargeFiles } from "./large_files.ts";
import type { Answer } from "./sender.ts";
import type { SentFile, UploadOptions } from "./sent_file.ts";

/** See the head of this file. */
export class Upload {
  readonly #options: UploadOptions;
  readonly #ask: Ask;
  readonly #large: LargeFiles;
  /** What the commit says; empty before it. */
  files: readonly SentFile[] = [];

  constructor(options: UploadOptions) {
    this.#options = options;
    this.#ask = { doing: `publish to ${quote(options.repo.id)}`, repo: options.repo };
    this.#large = new LargeFiles(options, this.#ask);
  }

  /** Whether storage refused an address, as it does when one has expired. */
  get refusedByStorage(): boolean {
    return this.#large.refused;
  }

  /** What to give to `commitIter`. */
  readonly fetch: typeof globalThis.fetch = async (input, init = {}) => {
    const url = String(input instanceof Request ? input.url : input);
    const { sender } = this.#options;
    const { method, body } = init;
    // The package's own signal: it also stops what is under way when another file has failed.
    const signal = init.signal ?? undefined;
    if (method === "PUT" && body instanceof FileBlob) {
      if (!this.#large.takes(url)) return this.#unexpected(url);
      return respond(await this.#large.put({ url, signal }, body));
    }
    if (method !== "POST" || typeof body !== "string") return this.#unexpected(url);
    const call = { url, signal, body };
    if (this.#large.completes(url)) return respond(await this.#large.complete(call));
    const { pathname, origin } = new URL(url);
    if (origin !== sender.home("").origin) return this.#unexpected(url);
    if (/\/preupload\/[^/]+$/.test(pathname)) return respond(await this.#preupload(call));
    if (pathname.endsWith(".git/info/lfs/objects/batch")) {
      return respond(await this.#large.batch(call));
    }
    if (/\/commit\/[^/]+$/.test(pathname)) return Response.json(await this.#commit(call));
    return this.#unexpected(url);
  };

  async #preupload({ url, signal, body }: Call): Promise<Answer> {
    const { sender } = this.#options;
    const answer = await sender.post(new URL(url), {
      ask: this.#ask,
      again: "always",
      signal,
      headers: { "content-type": "application/json" },
      body,
    });
    const asked = (JSON.parse(body) as { files: { path: string }[] }).files;
    const said = sender.parse(answer.text, this.#ask);
    const files: unknown = isObject(said) ? said.files : undefined;
    const known = new Map(
      (Array.isArray(files) ? files : []).filter(isObject).map((
        { path, uploadMode },
      ) => [path, uploadMode]),
    );
    for (const { path } of asked) {
      const mode = known.get(path);
      if (mode === "lfs" || mode === "regular") continue;
      return sender.wrong(this.#ask, `does not say how to upload ${quote(path)}`);
    }
    return answer;
  }

  async #commit({ url, signal, body }: Call): Promise<CommitCall> {
    this.files = filesOf(body);
    const made = await commitOnce(new URL(url), {
      ...this.#options,
      signal,
      body,
      files: this.files,
      ask: this.#ask,
    });
    const small = this.files.filter(({ hash }) => hash.kind === "git");
    this.#options.present(small.reduce((sum, { size }) => sum + size, 0));
    return made;
  }

  #unexpected(url: string): never {
    throw new RangeError(
      `Cannot send a request to ${
        quote(new URL(url).origin + new URL(url).pathname)
      }: publishing needs no such request.`,
    );
  }
}

/** The files that a commit's lines name. */
function filesOf(body: string): SentFile[] {
  return body.split("\n").flatMap((line): SentFile[] => {
    const { key, value } = JSON.parse(line) as { key: string; value: Record<string, string> };
    if (key === "lfsFile") {
      return [{
        path: value.path!,
        size: Number(value.size),
        hash: { kind: "sha256", hex: value.oid! },
      }];
    }
    if (key !== "file") return [];
    const bytes = Uint8Array.fromBase64(value.content!);
    const hex = createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
    return [{ path: value.path!, size: bytes.length, hash: { kind: "git", hex } }];
  });
}

/** The answer as the package reads it: without its address, which may be signed. */
function respond({ text, headers }: Answer): Response {
  const kept = ["content-type", "etag", "x-request-id"].flatMap((name) => {
    const value = headers.get(name);
    return value === null ? [] : [[name, value] as const];
  });
  return new Response(text, { headers: kept.map(([name, value]) => [name, value]) });
}
