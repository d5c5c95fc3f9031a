/**
 * One upload: which of the files are large, where the Hub keeps those, and a commit that names all
 * of them. The Hub is asked in its own words (preupload, git-lfs's batch API, commits as lines of
 * JSON); what is kept of the large files' bytes is for large_files.ts.
 */
import { createHash } from "node:crypto";
import { quote } from "../errors.ts";
import type { HubClient } from "../hub/client.ts";
import type { Ask } from "../hub/refusals.ts";
import type { RepoSpec } from "../hub/repo_spec.ts";
import { isObject } from "../json.ts";
import { type CommitMade, commitOnce } from "./commit_once.ts";
import { FileBlob } from "./file_blob.ts";
import { type LargeFile, sendLargeFiles } from "./large_files.ts";
import { hashBlob } from "./hash_blob.ts";
import type { LargeObject } from "./lfs_batch.ts";
import type { Sender } from "./sender.ts";
import type { UploadMemory } from "./upload_memory.ts";
import type { SentFile } from "./sent_file.ts";

/** Files that the Hub is asked about at once; it takes 256. */
const PREUPLOAD = 100;

/** Bytes from which the Hub tells whether a file is text. */
const SAMPLE = 512;

/** A file that is here, or one that was sent before and is not. */
export type Content = FileBlob | LargeObject;

/** One upload. */
export interface UploadOptions {
  readonly sender: Sender;
  readonly client: HubClient;
  /** With the branch as its revision. */
  readonly repo: RepoSpec;
  /** The commit that ours is to follow. */
  readonly parent: string;
  readonly pullRequest: boolean;
  /** The first line of the commit. */
  readonly title: string;
  readonly signal: AbortSignal | undefined;
  /** Hashes of files, by path, where they are known: those are not hashed again. */
  readonly known?: ReadonlyMap<string, LargeObject> | undefined;
  /** Hears of the bytes of a large file that were hashed. */
  readonly hashing: (path: string, done: number, total: number) => void;
  /** Hears of bytes that are on their way, or there; of negative ones when a try has failed. */
  readonly sent: (bytes: number) => void;
  readonly committing: () => void;
  /** Remembers parts for a process that goes on with the upload. */
  readonly memory?: UploadMemory | undefined;
}

/** The commit that holds the files. */
export interface Uploaded extends CommitMade {
  readonly files: readonly SentFile[];
}

/**
 * Upload files in one commit.
 *
 * @param contents By path.
 * @throws {HubError} the Hub refuses it, or could not be reached.
 * @throws {CheckpointError} a file changed.
 */
export async function uploadFiles(
  contents: ReadonlyMap<string, Content>,
  options: UploadOptions,
): Promise<Uploaded> {
  const { sender, repo, sent, signal, committing, memory } = options;
  const ask: Ask = { doing: `publish to ${quote(repo.id)}`, repo };
  const large = await largeOf(contents, { ...options, ask });
  const found = new Map<string, LargeFile>();
  for (const [path, content] of contents) {
    if (!(content instanceof FileBlob)) found.set(path, content);
    else if (large.has(path)) found.set(path, await hashed(path, content, options));
  }
  await sendLargeFiles([...found.values()], {
    ...{ sender, repo, ask, signal, sent, present: sent },
    ...(memory ? { memory } : {}),
  });
  committing();
  const lines: unknown[] = [headerLine(options)];
  const files: SentFile[] = [];
  for (const [path, content] of contents) {
    const known = found.get(path) ??
      (content instanceof FileBlob ? await content.bytes() : content);
    const { line, file } = commitLine(path, known);
    lines.push(line);
    files.push(file);
  }
  const made = await commitOnce({
    ...options,
    ask,
    files,
    body: lines.map((line) => JSON.stringify(line)).join("\n"),
  });
  const small = files.filter(({ hash }) => hash.kind === "git");
  sent(small.reduce((sum, { size }) => sum + size, 0));
  return { ...made, files };
}

/** Which files the Hub keeps outside git. */
async function largeOf(
  contents: ReadonlyMap<string, Content>,
  { sender, repo, pullRequest, ask, signal }: UploadOptions & { readonly ask: Ask },
): Promise<ReadonlySet<string>> {
  const revision = encodeURIComponent(repo.revision ?? "main");
  const url = sender.home(
    `/api/models/${repo.id}/preupload/${revision}${pullRequest ? "?create_pr=1" : ""}`,
  );
  const large = new Set<string>();
  const all = [...contents].flatMap(([path, content]) =>
    content instanceof FileBlob ? [[path, content] as const] : []
  );
  for (let at = 0; at < all.length; at += PREUPLOAD) {
    const some = all.slice(at, at + PREUPLOAD);
    const files = [];
    for (const [path, blob] of some) {
      const sample = (await blob.slice(0, SAMPLE).bytes()).toBase64();
      files.push({ path, size: blob.size, sample });
    }
    const said = await sender.json(url, {
      ask,
      again: "always",
      signal,
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ files }),
    });
    const answers: unknown = isObject(said) ? said.files : undefined;
    const modes = new Map(
      (Array.isArray(answers) ? answers : []).filter(isObject)
        .map(({ path, uploadMode }) => [path, uploadMode]),
    );
    for (const [path, { size }] of some) {
      const mode = modes.get(path);
      if (mode !== "lfs" && mode !== "regular") {
        return sender.wrong(ask, `does not say how to upload ${quote(path)}`);
      }
      // Storage takes no empty files.
      if (mode === "lfs" && size > 0) large.add(path);
    }
  }
  return large;
}

async function hashed(
  path: string,
  blob: FileBlob,
  { hashing, signal, known: all }: UploadOptions,
): Promise<LargeFile> {
  const { size } = blob;
  const known = all?.get(path);
  const oid = known?.size === size ? known.oid : await hashBlob(blob, {
    signal,
    hashed: (done) => hashing(path, done, size),
  });
  return { oid, size, blob };
}

function headerLine({ title, parent }: UploadOptions) {
  return { key: "header", value: { summary: title, description: "", parentCommit: parent } };
}

/** What a commit says of a file, and what is to be found there afterwards. */
function commitLine(
  path: string,
  content: LargeObject | Uint8Array<ArrayBuffer>,
): { readonly line: unknown; readonly file: SentFile } {
  if (content instanceof Uint8Array) {
    const size = content.length;
    const hex = createHash("sha1").update(`blob ${size}\0`).update(content).digest("hex");
    const value = { path, encoding: "base64", content: content.toBase64() };
    return { line: { key: "file", value }, file: { path, size, hash: { kind: "git", hex } } };
  }
  const { oid, size } = content;
  return {
    line: { key: "lfsFile", value: { path, algo: "sha256", oid, size } },
    file: { path, size, hash: { kind: "sha256", hex: oid } },
  };
}
