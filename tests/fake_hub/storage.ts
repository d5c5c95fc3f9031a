/**
 * The other origin, where large files are: signed addresses that grow old, ranges, uploads in one
 * piece or in parts. It wants no token: a request with one is a violation, which is written down
 * and answered 400.
 */
import { createHash, createHmac } from "node:crypto";
import { join } from "node:path";
import { fileContent } from "./content.ts";
import type { Repository } from "./repository.ts";
import { type Answer, bodyOf, fileAnswer, json, type Visit } from "./answer.ts";
import { parseJson, refusal } from "./access.ts";

/** What the storage needs from the Hub it belongs to. */
export interface StorageOptions {
  /** The repository at `org/name` or `datasets/org/name`. */
  readonly repository: (place: string) => Repository | undefined;
  /** Seconds that an address is good for. */
  readonly urlSeconds: number;
  /** Where violations go. */
  readonly violations: string[];
  /** Ends the hashing of files. */
  readonly stop: AbortSignal;
}

/** An upload that was promised, and what has come of it. */
interface Upload {
  readonly repository: Repository;
  readonly oid: string;
  readonly size: number;
  /** Bytes of a part; of all when it comes in one piece. */
  readonly partBytes: number;
  readonly parts: Map<number, { readonly path: string; readonly etag: string }>;
}

/**
 * The large files of a fake Hub. Uploads lie in a temporary folder, which is removed with the
 * storage.
 */
export class Storage implements AsyncDisposable {
  readonly #options: StorageOptions;
  readonly #uploads: Map<string, Upload> = new Map();
  /** The key of signatures. */
  #secret = 1;
  #folder: Promise<string> | undefined;
  #written = 0;
  /** Set when the port is known: `http://localhost:PORT`. */
  origin = "";

  constructor(options: StorageOptions) {
    this.#options = options;
  }

  /** The address of a large file, signed. */
  downloadUrl(repository: Repository, path: string, oid: string): string {
    const segments = path.split("/").map(encodeURIComponent).join("/");
    return this.#sign(`/lfs/${repository.place}/${oid}/${segments}`);
  }

  /** Make every address that was given out so far too old. */
  expireUrls(): void {
    this.#secret++;
  }

  /** The addresses to upload a file to: one, or one for each part. */
  uploadUrls(
    repository: Repository,
    { oid, size, partBytes }: {
      readonly oid: string;
      readonly size: number;
      readonly partBytes: number;
    },
  ): string[] {
    const id = `${repository.place}/${oid}`;
    const known = this.#uploads.get(id);
    if (!known || known.partBytes !== partBytes) {
      this.#uploads.set(id, { repository, oid, size, partBytes, parts: new Map() });
    }
    const count = Math.max(1, Math.ceil(size / partBytes));
    return Array.from({ length: count }, (_, i) => this.#sign(`/upload/${id}/${i + 1}`));
  }

  /** Answer a request to the storage's origin. */
  async answer(visit: Visit): Promise<Answer> {
    const { method, url, headers } = visit;
    if (headers.authorization !== undefined) {
      this.#options.violations.push(`${method} ${url.origin}${url.pathname} came with a token`);
      return xml(400, "InvalidArgument", "Only one auth mechanism allowed. Send no Authorization.");
    }
    const [, action, ...rest] = url.pathname.split("/").map(decodeURIComponent);
    if (!this.#isGood(url)) return xml(403, "AccessDenied", "Request has expired");
    const parts = rest[0] === "datasets" ? 3 : 2;
    const repository = this.#options.repository(rest.slice(0, parts).join("/"));
    const oid = rest[parts] ?? "";
    if (action === "lfs" && (method === "GET" || method === "HEAD")) {
      const content = repository?.objects.get(oid);
      if (!content) return xml(404, "NoSuchKey", "The specified key does not exist.");
      return fileAnswer(content, headers.range, { ETag: `"${oid.slice(0, 32)}"` });
    }
    if (action === "upload" && method === "PUT" && repository) {
      return await this.#put(visit, `${repository.place}/${oid}`, Number(rest[parts + 1]));
    }
    return xml(405, "MethodNotAllowed", "The specified method is not allowed.");
  }

  async #put(visit: Visit, id: string, part: number): Promise<Answer> {
    const upload = this.#uploads.get(id);
    if (!upload) return xml(404, "NoSuchUpload", "The specified upload does not exist.");
    const begin = (part - 1) * upload.partBytes;
    const expected = Math.min(upload.size - begin, upload.partBytes);
    const { path, size, sha256, md5 } = await this.#keep(visit);
    const whole = upload.partBytes >= upload.size;
    if (size !== expected || whole && sha256 !== upload.oid) {
      await Deno.remove(path);
      return xml(403, "XAmzContentSHA256Mismatch", "The bytes are not those that were announced.");
    }
    const etag = `"${md5}"`;
    if (whole) {
      upload.repository.objects.set(
        upload.oid,
        fileContent(path, { sha256, stop: this.#options.stop }),
      );
      this.#uploads.delete(id);
    } else {
      const old = upload.parts.get(part);
      if (old) await Deno.remove(old.path);
      upload.parts.set(part, { path, etag });
    }
    return { status: 200, headers: { ETag: etag } };
  }

  /** Write the body of a request into a new file. */
  async #keep({ request }: Visit) {
    this.#folder ??= Deno.makeTempDir({ prefix: "fake_hub_" });
    const path = join(await this.#folder, String(++this.#written));
    const sha256 = createHash("sha256"), md5 = createHash("md5");
    let size = 0;
    using file = await Deno.open(path, { write: true, createNew: true });
    for await (const bytes of request as AsyncIterable<Uint8Array>) {
      for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
      sha256.update(bytes);
      md5.update(bytes);
      size += bytes.length;
    }
    return { path, size, sha256: sha256.digest("hex"), md5: md5.digest("hex") };
  }

  /** The signed address, at the Hub, that says that all parts are there. */
  completionUrl(repository: Repository, oid: string, endpoint: string): string {
    return endpoint +
      this.#signed(`/api/complete_multipart/${repository.place}/${oid}`);
  }

  /** Put the parts of an upload together, as a signed address asks. */
  async complete(visit: Visit): Promise<Answer> {
    if (!this.#isGood(visit.url)) throw refusal(403, "Request has expired");
    const id = visit.url.pathname.slice("/api/complete_multipart/".length);
    const upload = this.#uploads.get(decodeURIComponent(id));
    if (!upload) throw refusal(404, "The specified upload does not exist.");
    const { parts } = parseJson<{ parts?: { partNumber: number; etag: string }[] }>(
      await bodyOf(visit),
    );
    const count = Math.ceil(upload.size / upload.partBytes);
    const paths: string[] = [];
    for (let i = 1; i <= count; i++) {
      const named = (parts ?? []).find(({ partNumber }) => partNumber === i);
      const there = upload.parts.get(i);
      if (!named || !there || named.etag !== there.etag) {
        throw refusal(400, `One or more of the specified parts could not be found: part ${i}.`);
      }
      paths.push(there.path);
    }
    const path = join((await this.#folder)!, String(++this.#written));
    const sha256 = await joinParts(paths, path);
    if (sha256 !== upload.oid) {
      await Deno.remove(path);
      throw refusal(403, "The bytes are not those that were announced.");
    }
    upload.repository.objects.set(
      upload.oid,
      fileContent(path, { sha256, stop: this.#options.stop }),
    );
    this.#uploads.delete(`${upload.repository.place}/${upload.oid}`);
    return json({ success: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#folder) await Deno.remove(await this.#folder, { recursive: true });
  }

  #sign(path: string): string {
    return this.origin + this.#signed(path);
  }

  #signed(path: string): string {
    const expires = Math.floor(Date.now() / 1000) + this.#options.urlSeconds;
    return `${path}?Expires=${expires}&Signature=${
      this.#signature(path, String(expires))
    }&Key-Pair-Id=FAKE`;
  }

  #isGood({ pathname, searchParams }: URL): boolean {
    const expires = searchParams.get("Expires") ?? "";
    return Number(expires) > Date.now() / 1000 &&
      searchParams.get("Signature") === this.#signature(pathname, expires);
  }

  #signature(path: string, expires: string): string {
    return createHmac("sha256", `secret ${this.#secret}`).update(
      `${decodeURIComponent(path)} ${expires}`,
    )
      .digest("hex");
  }
}

/** Move the bytes of parts into one file. Returns its SHA-256. */
async function joinParts(parts: readonly string[], path: string): Promise<string> {
  const hash = createHash("sha256");
  using target = await Deno.open(path, { write: true, createNew: true });
  for (const part of parts) {
    const source = await Deno.open(part);
    for await (const bytes of source.readable) {
      for (let done = 0; done < bytes.length;) done += await target.write(bytes.subarray(done));
      hash.update(bytes);
    }
    await Deno.remove(part);
  }
  return hash.digest("hex");
}

function xml(status: number, code: string, message: string): Answer {
  return {
    status,
    headers: { "Content-Type": "application/xml" },
    body: new TextEncoder().encode(
      `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>${message}</Message></Error>`,
    ),
  };
}
