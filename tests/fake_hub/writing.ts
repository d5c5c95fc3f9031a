/**
 * The addresses of a repository that are written: what to upload how, where large files go,
 * commits, branches.
 */
import { checkGate, checkWritable, parseJson, refusal, type TokenInfo } from "./access.ts";
import { contentFrom } from "./content.ts";
import { describe, type Entry, isLarge, type Repository } from "./repository.ts";
import { type RepositoryVisit, takeRevision } from "./reading.ts";
import type { Storage } from "./storage.ts";
import { type Answer, bodyOf, json } from "./answer.ts";

/** What the Hub that is written has for its addresses. */
export interface WriteOptions {
  readonly endpoint: string;
  readonly storage: Storage;
  /** Largest size of a file that is kept in git. */
  readonly threshold: number;
  /** Bytes of a part; what is larger is uploaded in parts. */
  readonly partBytes: number;
  readonly repositories: Map<string, Repository>;
  /** Ends the hashing of files. */
  readonly stop: AbortSignal;
}

/**
 * Answer a request below `/api/models/{id}` that writes; undefined when there is no such address.
 */
export async function answerWrite(
  visit: RepositoryVisit,
  options: WriteOptions,
): Promise<Answer | undefined> {
  const { method, rest: [action, ...rest], repository, person } = visit;
  if (action === "auth-check" && rest[0] === "write") {
    checkWritable(repository, person);
    return json({});
  }
  if (method === "POST" && action === "preupload") return await preupload(visit, rest, options);
  if (method === "POST" && action === "commit") return await commit(visit, rest, options);
  if (action === "branch" && (method === "POST" || method === "DELETE")) {
    return await branch(visit, rest.join("/"));
  }
  return undefined;
}

/** Pull requests may be made by whoever can read. */
function checkMayPush(visit: RepositoryVisit, revision: string, endpoint: string): TokenInfo {
  const { repository, person, url } = visit;
  const pullRequest = url.searchParams.has("create_pr") || revision.startsWith("refs/pr/");
  if (!pullRequest || !person) {
    checkWritable(repository, person);
    return person;
  }
  checkGate(repository, person, { endpoint });
  if (person.role !== "write") checkWritable(repository, person);
  return person;
}

async function preupload(
  visit: RepositoryVisit,
  rest: readonly string[],
  { threshold, endpoint }: WriteOptions,
): Promise<Answer> {
  const { commit, revision } = takeRevision(visit.repository, rest);
  checkMayPush(visit, revision, endpoint);
  const { files = [] } = parseJson<{ files?: { path: string; size: number; sample?: string }[] }>(
    await bodyOf(visit),
  );
  if (files.length > 256) throw refusal(400, "Too many files: 256 is the most.");
  const answers = [];
  for (const { path, size, sample = "" } of files) {
    const known = commit.files.get(path);
    const binary = Uint8Array.fromBase64(sample).includes(0);
    const uploadMode = isLarge(path, size, threshold) || binary ? "lfs" : "regular";
    const about = known && await describe(known);
    const oid = about && (about.lfs?.oid ?? about.oid);
    answers.push({ path, uploadMode, shouldIgnore: false, ...(oid ? { oid } : {}) });
  }
  return json({ files: answers });
}

/** Say where large files go, as `POST /{id}.git/info/lfs/objects/batch` asks. */
export async function lfsBatch(visit: RepositoryVisit, options: WriteOptions): Promise<Answer> {
  const { repository } = visit;
  const { storage, partBytes, endpoint } = options;
  const asked = parseJson<{
    operation?: string;
    transfers?: string[];
    hash_algo?: string;
    ref?: { name?: string };
    objects?: { oid: string; size: number }[];
  }>(await bodyOf(visit));
  if (asked.operation !== "upload") throw refusal(422, "Only uploads are answered.");
  if (!visit.person) checkWritable(repository, visit.person);
  if (!/^sha_?256$/.test(asked.hash_algo ?? "sha256")) {
    throw refusal(409, "Only the sha256 hash algorithm is known.");
  }
  await repository.indexed();
  const parted = asked.transfers?.includes("multipart") ?? false;
  let multipart = false;
  const objects = (asked.objects ?? []).map(({ oid, size }) => {
    if (!/^[0-9a-f]{64}$/.test(oid) || !Number.isSafeInteger(size) || size < 0) {
      return { oid, size, error: { code: 422, message: "Object id or size is not valid." } };
    }
    const known = repository.objects.get(oid);
    if (known) return { oid, size };
    const inParts = parted && size > partBytes;
    multipart ||= inParts;
    const piece = inParts ? partBytes : Math.max(size, 1);
    const urls = storage.uploadUrls(repository, { oid, size, partBytes: piece });
    const names = urls.map((url, i) => [String(i + 1).padStart(5, "0"), url]);
    const upload = inParts
      ? {
        href: storage.completionUrl(repository, oid, endpoint),
        header: { chunk_size: String(partBytes), ...Object.fromEntries(names) },
      }
      : { href: urls[0], header: {}, expires_in: 86_400 };
    const verify = {
      href: `${endpoint}/${repository.place}.git/info/lfs/objects/verify`,
      header: {},
    };
    return { oid, size, authenticated: true, actions: { upload, verify } };
  });
  return json({ transfer: multipart ? "multipart" : "basic", objects }, {
    headers: { "Content-Type": "application/vnd.git-lfs+json" },
  });
}

/** Say whether a large file has come, as `POST /{id}.git/info/lfs/objects/verify` asks. */
export async function lfsVerify(visit: RepositoryVisit): Promise<Answer> {
  const { oid = "", size } = parseJson<{ oid?: string; size?: number }>(await bodyOf(visit));
  const known = visit.repository.objects.get(oid);
  if (!known || known.size !== size) throw refusal(404, `Object ${oid} is not there.`);
  return json({});
}

/** A line of a commit. */
interface CommitLine {
  readonly key: "header" | "file" | "lfsFile" | "deletedFile" | "deletedFolder";
  readonly value: {
    readonly summary?: string;
    readonly description?: string;
    readonly parentCommit?: string;
    readonly path?: string;
    readonly content?: string;
    readonly encoding?: string;
    readonly algo?: string;
    readonly oid?: string;
    readonly size?: number;
  };
}

async function commit(
  visit: RepositoryVisit,
  rest: readonly string[],
  { endpoint, threshold, stop }: WriteOptions,
): Promise<Answer> {
  const { repository, url } = visit;
  const { revision } = takeRevision(repository, rest);
  const person = checkMayPush(visit, revision, endpoint);
  const text = new TextDecoder().decode(await bodyOf(visit));
  const lines = text.split("\n").filter((line) => line.trim() !== "").map((line) =>
    parseJson<CommitLine>(new TextEncoder().encode(line))
  );
  const [header, ...changes] = lines;
  if (header?.key !== "header" || !header.value.summary) {
    throw refusal(400, "A commit begins with a header that has a summary.");
  }
  const { summary, description = "", parentCommit } = header.value;
  // As it is now: others may have committed while the body came.
  const { commit: base } = takeRevision(repository, rest);
  if (parentCommit !== undefined && parentCommit !== base.sha) {
    throw refusal(412, "A commit has happened since. Please refresh and try again.");
  }
  if (!repository.refs.has(revision)) throw refusal(400, "Only branches can be committed to.");
  const entries: Entry[] = [], deleted: string[] = [];
  for (const { key, value } of changes) {
    const path = checkPath(value.path);
    if (key === "deletedFile") deleted.push(path);
    else if (key === "deletedFolder") deleted.push(path.replace(/\/?$/, "/"));
    else if (key === "file") entries.push(smallFile(path, value, { threshold, stop }));
    else if (key === "lfsFile") entries.push(largeFile(repository, path, value));
    else throw refusal(400, `No change is called "${key}".`);
  }
  const wantsPullRequest = url.searchParams.has("create_pr");
  const number = wantsPullRequest ? repository.openPullRequest(revision) : undefined;
  const made = repository.add({
    entries,
    deleted,
    branch: number === undefined ? revision : `refs/pr/${number}`,
    title: summary,
    message: description,
    author: person.user,
  });
  return json({
    success: true,
    commitOid: made.sha,
    commitUrl: `${endpoint}/${repository.place}/commit/${made.sha}`,
    ...(number === undefined
      ? {}
      : { pullRequestUrl: `${endpoint}/${repository.place}/discussions/${number}` }),
    hookOutput: "",
  });
}

function checkPath(path = ""): string {
  const segments = path.replace(/\/$/, "").split("/");
  if (segments.some((name) => ["", ".", "..", ".git"].includes(name)) || path.includes("\\")) {
    throw refusal(400, `Invalid path in repo: "${path}".`);
  }
  return path;
}

function smallFile(
  path: string,
  value: CommitLine["value"],
  { threshold, stop }: Pick<WriteOptions, "threshold" | "stop">,
): Entry {
  const { content = "", encoding = "utf-8" } = value;
  const bytes = encoding === "base64"
    ? Uint8Array.fromBase64(content)
    : new TextEncoder().encode(content);
  if (bytes.length > threshold) {
    throw refusal(
      400,
      `Your push was rejected because it contains files larger than ${threshold} bytes. Use git-lfs.`,
    );
  }
  return { path, content: contentFrom(bytes, stop), large: false };
}

function largeFile(repository: Repository, path: string, value: CommitLine["value"]): Entry {
  const content = repository.objects.get(value.oid ?? "");
  if (!content || value.algo !== "sha256" || content.size !== value.size) {
    throw refusal(400, `LFS pointer pointed to a file that does not exist: "${path}".`);
  }
  return { path, content, large: true };
}

async function branch(visit: RepositoryVisit, name: string): Promise<Answer> {
  const { repository, person, method } = visit;
  checkWritable(repository, person);
  if (method === "DELETE") {
    if (name === "main") throw refusal(403, "The main branch cannot be deleted.");
    if (!repository.refs.delete(name)) {
      throw refusal(404, `Invalid rev id: ${name}`, { code: "RevisionNotFound" });
    }
    return { status: 200 };
  }
  const body = await bodyOf(visit);
  const { startingPoint = "main", emptyBranch = false, overwrite = false } = body.length === 0
    ? {}
    : parseJson<{ startingPoint?: string; emptyBranch?: boolean; overwrite?: boolean }>(body);
  if (repository.refs.has(name) && !overwrite) {
    throw refusal(409, `Reference already exists: refs/heads/${name}`);
  }
  const start = repository.find(startingPoint);
  if (!start) throw refusal(404, `Invalid rev id: ${startingPoint}`, { code: "RevisionNotFound" });
  repository.refs.set(name, start);
  if (emptyBranch) {
    const deleted = [...start.files.keys()];
    repository.add({
      branch: name,
      entries: [],
      deleted,
      title: "Empty branch",
      author: person.user,
    });
  }
  return { status: 200 };
}
