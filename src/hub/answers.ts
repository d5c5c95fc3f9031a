/**
 * What answers of the Hub say, and whether they are what was asked for. Pure; trusts nothing in
 * them.
 */
import { quote } from "../errors.ts";
import type { HubFile, PinnedRepo, Span } from "./file.ts";
import { isCommit, parseRepoSpec } from "./repo_spec.ts";
import type { Reply } from "./transport.ts";
import { isObject } from "../json.ts";

/**
 * The commit and the name of today that the Hub tells of a repository; undefined when it does not.
 */
export function readPin(
  value: unknown,
): { readonly id: string; readonly commit: string } | undefined {
  const { id, sha } = isObject(value) ? value : {};
  if (typeof sha !== "string" || !isCommit(sha)) return undefined;
  return typeof id === "string" && parseRepoSpec(id)?.id === id ? { id, commit: sha } : undefined;
}

/** A file of the list; false for a folder, undefined for what is neither. */
export function readEntry(repo: PinnedRepo, entry: unknown): HubFile | false | undefined {
  if (!isObject(entry)) return undefined;
  const { type, path, size, oid, lfs } = entry;
  if (type === "directory") return false;
  if (type !== "file" || typeof path !== "string") return undefined;
  const stored = isObject(lfs) ? lfs.size : size;
  const hex = isObject(lfs) ? lfs.oid : oid;
  const kind = isObject(lfs) ? "sha256" : "git";
  if (
    typeof stored !== "number" || !Number.isSafeInteger(stored) || stored < 0 ||
    size !== stored || typeof hex !== "string" ||
    !(kind === "git" ? /^[0-9a-f]{40}$/ : /^[0-9a-f]{64}$/).test(hex)
  ) return undefined;
  return { repo, path, size: stored, hash: { kind, hex } };
}

/** Why an answer does not hold just the bytes asked for; undefined when it does. */
export function wrongSpan(
  { status, headers }: Reply,
  { size, path }: HubFile,
  { begin, end, whole }: Span & { readonly whole: boolean },
): string | undefined {
  const range = headers.get("content-range");
  const length = headers.get("content-length");
  if (/^text\/html/i.test(headers.get("content-type") ?? "") && !/\.html?$/i.test(path)) {
    return "sent an HTML page in place of the file";
  }
  if (status === 206) {
    const wanted = `bytes ${begin}-${end - 1}/${size}`;
    if (range !== wanted) {
      return range === null
        ? `sent a part without saying which, expected ${quote(wanted)}`
        : `sent ${quote(range)}, expected ${quote(wanted)}`;
    }
  } else if (status !== 200 || !whole) {
    return whole ? `answers ${status}, expected 200` : `answers ${status} to a range, expected 206`;
  }
  return length !== null && length !== String(end - begin)
    ? `sends ${length} bytes, expected ${end - begin}`
    : undefined;
}

/**
 * Why what the Hub says of a file on its way does not fit the list of files; undefined when it
 * does.
 */
export function wrongIdentity(
  { headers, passed }: Reply,
  { repo, size, hash }: HubFile,
): string | undefined {
  for (const said of [...passed, headers]) {
    const commit = said.get("x-repo-commit");
    if (commit !== null && commit !== repo.commit) {
      return `serves commit ${quote(commit)}, expected ${repo.commit}`;
    }
    const linked = said.get("x-linked-size");
    if (linked !== null && linked !== String(size)) {
      return `says the file has ${linked} bytes, and its list of files says ${size}`;
    }
    const etag = said.get("x-linked-etag")?.replace(/^W\//, "").replaceAll('"', "");
    if (hash.kind === "sha256" && etag && /^[0-9a-f]{64}$/.test(etag) && etag !== hash.hex) {
      return `says the file's SHA-256 is ${etag}, and its list of files says ${hash.hex}`;
    }
  }
  return undefined;
}
