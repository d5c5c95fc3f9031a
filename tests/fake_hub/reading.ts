/**
 * The Hub's addresses that are read: information on repositories, trees in pages, paths, commits,
 * refs, files.
 */
import { parse as parseYaml } from "yaml";
import { checkGate, parseJson, refusal, type TokenInfo } from "./access.ts";
import { hexHash, readAll } from "./content.ts";
import { type Commit, describe, type Entry, pointerText, type Repository } from "./repository.ts";
import type { Storage } from "./storage.ts";
import { type Answer, bodyOf, fileAnswer, json, type Visit } from "./answer.ts";

/** A request for a repository, after it was found and its visitor may know of it. */
export interface RepositoryVisit extends Visit {
  readonly repository: Repository;
  readonly person: TokenInfo | undefined;
  /** What follows the repository's id, decoded: `["tree", "main", "sub"]`. */
  readonly rest: readonly string[];
}

/** What the Hub that is read has for its addresses. */
export interface ReadOptions {
  readonly endpoint: string;
  readonly storage: Storage;
  /** Entries of a tree in a page. */
  readonly pageSize: number;
}

/**
 * Answer a request below `/api/models/{id}` or `/api/datasets/{id}`; undefined when it is not one
 * that is read.
 */
export async function answerApi(
  visit: RepositoryVisit,
  options: ReadOptions,
): Promise<Answer | undefined> {
  const { rest: [action, ...rest], method, repository } = visit;
  if (method === "POST" && action === "paths-info") {
    return await pathsInfo(visit, takeRevision(repository, rest).commit);
  }
  if (method !== "GET" && method !== "HEAD") return undefined;
  switch (action) {
    case undefined:
      return await info(visit, repository.head());
    case "revision":
      return await info(visit, takeRevision(repository, rest).commit);
    case "tree":
      return await tree(visit, takeRevision(repository, rest), options);
    case "commits":
      return commits(visit, takeRevision(repository, rest).commit, options);
    case "refs":
      return refs(visit);
    case "auth-check":
      checkGate(repository, visit.person, options);
      return json({});
    default:
      return undefined;
  }
}

/**
 * The commit at the beginning of some segments, and the path behind it. A revision's slashes may be
 * written as they are.
 */
export function takeRevision(
  repository: Repository,
  segments: readonly string[],
): { readonly commit: Commit; readonly revision: string; readonly path: string } {
  for (let count = Math.min(3, segments.length); count >= 1; count--) {
    const revision = segments.slice(0, count).join("/");
    const commit = repository.find(revision);
    if (commit) return { commit, revision, path: segments.slice(count).join("/") };
  }
  throw refusal(404, `Invalid rev id: ${segments[0] ?? ""}`, { code: "RevisionNotFound" });
}

function entryNotFound(path: string, { sha }: Commit) {
  const headers = { "X-Repo-Commit": sha };
  return refusal(404, "Entry not found", { code: "EntryNotFound", headers, body: { path } });
}

async function info({ url, repository }: RepositoryVisit, commit: Commit): Promise<Answer> {
  const { private: hidden = false, gated = false, disabled = false } = repository.settings;
  const card = await cardOf(commit);
  const blobs = url.searchParams.get("blobs") === "true" ||
    url.searchParams.get("blobs") === "True";
  const siblings = [];
  for (const entry of commit.files.values()) {
    siblings.push({ rfilename: entry.path, ...(blobs ? await blobOf(entry) : {}) });
  }
  const all: Record<string, unknown> = {
    _id: hexHash("sha1", repository.place).slice(0, 24),
    id: repository.id,
    ...(repository.type === "model" ? { modelId: repository.id } : {}),
    author: repository.id.split("/")[0],
    sha: commit.sha,
    private: hidden,
    gated,
    disabled,
    downloads: 0,
    likes: 0,
    lastModified: commit.date,
    createdAt: "2026-01-01T00:00:00.000Z",
    tags: tagsOf(card),
    ...(typeof card["pipeline_tag"] === "string" ? { pipeline_tag: card["pipeline_tag"] } : {}),
    ...(typeof card["library_name"] === "string" ? { library_name: card["library_name"] } : {}),
    cardData: card,
    siblings,
  };
  const wanted = [...url.searchParams.getAll("expand"), ...url.searchParams.getAll("expand[]")];
  if (wanted.length === 0) return json(all);
  const kept = new Set(["_id", "id", ...wanted]);
  return json(Object.fromEntries(Object.entries(all).filter(([name]) => kept.has(name))));
}

async function blobOf(entry: Entry): Promise<Record<string, unknown>> {
  const { oid, size, lfs } = await describe(entry);
  return {
    size,
    blobId: oid,
    ...(lfs ? { lfs: { sha256: lfs.oid, size, pointerSize: lfs.pointerSize } } : {}),
  };
}

/** The front matter of the model card. */
async function cardOf({ files }: Commit): Promise<Record<string, unknown>> {
  const readme = files.get("README.md");
  if (!readme) return {};
  const text = new TextDecoder().decode(await readAll(readme.content));
  const [, matter] = /^---\r?\n([\s\S]*?)\r?\n---/.exec(text) ?? [];
  const card: unknown = matter === undefined ? undefined : parseYaml(matter);
  return typeof card === "object" && card !== null ? { ...card } : {};
}

function tagsOf(card: Readonly<Record<string, unknown>>): string[] {
  const list = (value: unknown) => Array.isArray(value) ? value.map(String) : [];
  const tags = [...list(card["tags"])];
  if (typeof card["license"] === "string") tags.push(`license:${card["license"]}`);
  for (const base of [card["base_model"]].flat()) {
    if (typeof base !== "string") continue;
    tags.push(`base_model:${base}`);
    const relation = card["base_model_relation"];
    if (typeof relation === "string") tags.push(`base_model:${relation}:${base}`);
  }
  return tags;
}

async function tree(
  { url, repository }: RepositoryVisit,
  { commit, revision, path }: ReturnType<typeof takeRevision>,
  { endpoint, pageSize }: ReadOptions,
): Promise<Answer> {
  const query = url.searchParams;
  const recursive = /^(true|1)$/i.test(query.get("recursive") ?? "");
  const expand = /^(true|1)$/i.test(query.get("expand") ?? "");
  const prefix = path === "" ? "" : `${path.replace(/\/$/, "")}/`;
  const files: Entry[] = [], folders = new Set<string>();
  for (const entry of commit.files.values()) {
    if (!entry.path.startsWith(prefix)) continue;
    const below = entry.path.slice(prefix.length).split("/");
    for (let depth = 1; depth < below.length; depth++) {
      if (recursive || depth === 1) folders.add(prefix + below.slice(0, depth).join("/"));
    }
    if (recursive || below.length === 1) files.push(entry);
  }
  if (prefix !== "" && files.length === 0 && folders.size === 0) throw entryNotFound(path, commit);
  const entries = [...[...folders].sort(), ...files];
  const from = Number(atob(query.get("cursor") ?? "") || 0);
  const limit = Math.min(Number(query.get("limit") ?? pageSize), pageSize);
  const page = [];
  for (const entry of entries.slice(from, from + limit)) {
    const about = typeof entry === "string"
      ? { type: "directory", oid: hexHash("sha1", `${commit.sha} ${entry}`), size: 0, path: entry }
      : await describe(entry);
    const { sha: id, title, date } = commit;
    page.push(expand ? { ...about, lastCommit: { id, title, date } } : about);
  }
  if (from + limit >= entries.length) return json(page);
  const next = new URL(
    `${endpoint}/api/${repository.type}s/${repository.id}/tree/${encodeURIComponent(revision)}`,
  );
  if (path !== "") next.pathname += `/${path.split("/").map(encodeURIComponent).join("/")}`;
  for (const [name, value] of query) next.searchParams.set(name, value);
  next.searchParams.set("cursor", btoa(String(from + limit)));
  return json(page, { headers: { Link: `<${next.href}>; rel="next"` } });
}

async function pathsInfo(visit: RepositoryVisit, commit: Commit): Promise<Answer> {
  const body = await bodyOf(visit);
  const paths = visit.headers["content-type"]?.startsWith("application/x-www-form-urlencoded")
    ? new URLSearchParams(new TextDecoder().decode(body)).getAll("paths")
    : parseJson<{ paths?: string[] }>(body).paths ?? [];
  const found = [];
  for (const path of paths) {
    const entry = commit.files.get(path);
    if (entry) found.push(await describe(entry));
    else if ([...commit.files.keys()].some((known) => known.startsWith(`${path}/`))) {
      found.push({
        type: "directory",
        oid: hexHash("sha1", `${commit.sha} ${path}`),
        size: 0,
        path,
      });
    }
  }
  return json(found);
}

function commits(
  { url, repository }: RepositoryVisit,
  last: Commit,
  { endpoint }: ReadOptions,
): Answer {
  const limit = Number(url.searchParams.get("limit") ?? 50);
  const page = [];
  let next: Commit | undefined = last;
  for (; next && page.length < limit; next = next.parent) {
    const { sha: id, title, message, date, author } = next;
    page.push({ id, title, message, date, authors: [{ user: author, avatar: "" }] });
  }
  if (!next) return json(page);
  const more =
    `${endpoint}/api/${repository.type}s/${repository.id}/commits/${next.sha}?limit=${limit}`;
  return json(page, { headers: { Link: `<${more}>; rel="next"` } });
}

function refs({ repository, url }: RepositoryVisit): Answer {
  const list = (belongs: (name: string) => boolean, prefix: string) =>
    [...repository.refs].filter(([name]) => belongs(name)).map(([name, { sha }]) => ({
      name: name.replace(/^refs\/(pr|convert)\//, ""),
      ref: prefix + name,
      targetCommit: sha,
    }));
  return json({
    tags: [],
    branches: list((name) => !name.startsWith("refs/"), "refs/heads/"),
    converts: list((name) => name.startsWith("refs/convert/"), ""),
    ...(url.searchParams.has("include_prs")
      ? { pullRequests: list((name) => name.startsWith("refs/pr/"), "") }
      : {}),
  });
}

/** Answer a request for `/{id}/resolve/{rev}/{path}` or `/{id}/raw/{rev}/{path}`. */
export async function answerFile(visit: RepositoryVisit, options: ReadOptions): Promise<Answer> {
  const { repository, person, headers, rest: [action, ...rest] } = visit;
  const { commit, path } = takeRevision(repository, rest);
  checkGate(repository, person, options);
  const entry = commit.files.get(path);
  if (!entry) throw entryNotFound(path, commit);
  const { oid, size, lfs } = await describe(entry);
  const common = { "X-Repo-Commit": commit.sha };
  if (action === "raw" && lfs) {
    const body = new TextEncoder().encode(await pointerText(entry.content));
    return { status: 200, headers: { ...common, ETag: `"${oid}"` }, body };
  }
  if (action === "raw") {
    return fileAnswer(entry.content, headers.range, { ...common, ETag: `"${oid}"` });
  }
  if (lfs) {
    repository.objects.set(lfs.oid, entry.content);
    return {
      status: 302,
      headers: {
        ...common,
        ETag: `"${lfs.oid}"`,
        "X-Linked-Etag": `"${lfs.oid}"`,
        "X-Linked-Size": String(size),
        "Accept-Ranges": "bytes",
        Location: options.storage.downloadUrl(repository, path, lfs.oid),
      },
    };
  }
  const place = `/api/resolve-cache/${repository.type}s/${repository.id}/${commit.sha}`;
  const name = path.split("/").map(encodeURIComponent).join("/");
  return {
    status: 307,
    headers: {
      ...common,
      ETag: `"${oid}"`,
      "X-Linked-Size": String(size),
      Location: `${place}/${name}?etag=${encodeURIComponent(`"${oid}"`)}`,
    },
  };
}

/**
 * Answer a request for a small file in the Hub's own cache:
 * `/api/resolve-cache/models/{id}/{commit}/{path}?etag=…`.
 */
export async function answerCached(visit: RepositoryVisit, options: ReadOptions): Promise<Answer> {
  const { repository, person, headers, url } = visit;
  const { commit, path } = takeRevision(repository, visit.rest);
  checkGate(repository, person, options);
  const entry = commit.files.get(path);
  if (!entry) throw entryNotFound(path, commit);
  const { oid } = await describe(entry);
  if (url.searchParams.get("etag") !== `"${oid}"`) throw refusal(400, "Invalid etag");
  return fileAnswer(entry.content, headers.range, {
    "X-Repo-Commit": commit.sha,
    ETag: `"${oid}"`,
  });
}
