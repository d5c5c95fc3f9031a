/**
 * Where large files are to go: git-lfs's batch API, with the Hub's parts. Every answer is checked
 * against the question; refused are addresses that are not safe, and ways of uploading that Sluice
 * does not know.
 */
import { quote } from "../errors.ts";
import type { Ask } from "../hub/refusals.ts";
import type { RepoSpec } from "../hub/repo_spec.ts";
import { isObject } from "../json.ts";
import type { Sender } from "./sender.ts";

/** A file outside git, as git-lfs names it. */
export interface LargeObject {
  /** SHA-256, in hex. */
  readonly oid: string;
  readonly size: number;
}

/** Where an object is to go: whole, or in parts. */
export interface Addresses {
  /** Takes the whole object; of one in parts, is told when all are there. */
  readonly href: string;
  /** Absent for an object that goes whole. */
  readonly parts?: {
    /** Bytes of each but the last. */
    readonly bytes: number;
    /** Where each goes, in order. */
    readonly hrefs: readonly string[];
  };
}

/** What is to be done with an object that the Hub does not have. */
export interface UploadAction extends Addresses {
  /** Who is to be told that it is there, where the Hub asks for that. */
  readonly verify?: { readonly href: string; readonly header: Readonly<Record<string, string>> };
}

/** Who asks, for which repository. */
export interface BatchAsking {
  readonly sender: Sender;
  /** With the branch as its revision. */
  readonly repo: RepoSpec;
  readonly ask: Ask;
  readonly signal: AbortSignal | undefined;
}

/** Of requests about large objects. */
export const LFS_HEADERS = {
  accept: "application/vnd.git-lfs+json",
  "content-type": "application/vnd.git-lfs+json",
};

/**
 * Ask where objects are to go, at most a hundred.
 *
 * @param objects None twice.
 * @returns By oid what is to be done; undefined for an object that the Hub has.
 * @throws {HubError} the Hub does not take one of them, or answers something else.
 */
export async function askBatch(
  objects: readonly LargeObject[],
  asking: BatchAsking,
): Promise<Map<string, UploadAction | undefined>> {
  const { sender, repo, ask, signal } = asking;
  const said = await sender.json(sender.home(`/${repo.id}.git/info/lfs/objects/batch`), {
    ask,
    again: "always",
    signal,
    headers: LFS_HEADERS,
    body: JSON.stringify({
      operation: "upload",
      transfers: ["basic", "multipart"],
      hash_algo: "sha256",
      ref: { name: repo.revision ?? "main" },
      objects: objects.map(({ oid, size }) => ({ oid, size })),
    }),
  });
  const { transfer = "basic", objects: answers } = isObject(said) ? said : {};
  if (!Array.isArray(answers) || transfer !== "basic" && transfer !== "multipart") {
    return sender.wrong(ask, "offers no way of uploading that Sluice knows");
  }
  const found = new Map(answers.filter(isObject).map((answer) => [answer.oid, answer]));
  if (answers.length !== objects.length || found.size !== objects.length) {
    return sender.wrong(ask, "answers for other files than it was asked about");
  }
  return new Map(objects.map((object) => {
    const answer = found.get(object.oid);
    if (!answer) return sender.wrong(ask, "does not say where a file is to go");
    return [object.oid, readAction(answer, object, asking)];
  }));
}

/** What an answer says of one object. */
function readAction(
  { error, actions }: Record<string, unknown>,
  { size }: LargeObject,
  { sender, ask }: BatchAsking,
): UploadAction | undefined {
  if (isObject(error)) {
    const { code, message } = error;
    throw sender.transport.error(ask, {
      kind: code === 403 ? "forbidden" : "server",
      found: `the Hub does not take one of its files (${quote(`${code}: ${message}`)})`,
      advice: "See to that, then run the same command again.",
      status: typeof code === "number" ? code : undefined,
    });
  }
  const { upload, verify } = isObject(actions) ? actions : {};
  if (!isObject(upload)) return undefined;
  const href = sender.address(upload.href, ask).href;
  const { chunk_size: chunk, ...header } = stringsOf(upload.header);
  const numbers = Object.keys(header).filter((key) => /^\d+$/.test(key))
    .sort((a, b) => Number(a) - Number(b));
  const told = isObject(verify)
    ? {
      verify: {
        href: sender.address(verify.href, ask).href,
        header: stringsOf(verify.header),
      },
    }
    : {};
  if (chunk === undefined && numbers.length === 0) return { href, ...told };
  const bytes = Number(chunk);
  const fits = Number.isSafeInteger(bytes) && bytes > 0 &&
    numbers.length === Math.ceil(size / bytes) &&
    numbers.every((number, i) => Number(number) === i + 1);
  if (!fits) {
    return sender.wrong(
      ask,
      `gives ${numbers.length} addresses for a file of ${size} bytes in parts of ${
        quote(String(chunk))
      }`,
    );
  }
  const hrefs = numbers.map((number) => sender.address(header[number], ask).href);
  return { href, parts: { bytes, hrefs }, ...told };
}

function stringsOf(value: unknown): Readonly<Record<string, string>> {
  return Object.fromEntries(
    Object.entries(isObject(value) ? value : {}).map(([key, value]) => [key, String(value)]),
  );
}
