/**
 * What is on the Hub now: who asks, the repository, the head of a branch, the files of a commit.
 */
import { HubError, quote } from "../errors.ts";
import type { HubClient, HubFile } from "../hub/client.ts";
import type { Ask } from "../hub/refusals.ts";
import { isCommit, type RepoSpec } from "../hub/repo_spec.ts";
import { isObject } from "../json.ts";
import type { Sender } from "./sender.ts";
import type { SentFile } from "./sent_file.ts";

/** A question about a repository. */
export interface Asking {
  readonly sender: Sender;
  readonly repo: RepoSpec;
  readonly signal?: AbortSignal | undefined;
}

/** A repository that is there. */
export interface RemoteRepo {
  /** Its name today. */
  readonly id: string;
  readonly private: boolean;
}

/** A repository, or undefined when there is none that this token may see. */
export async function findRepo({ sender, repo, signal }: Asking): Promise<RemoteRepo | undefined> {
  const ask: Ask = { doing: `look at ${quote(repo.id)} on the Hub`, repo };
  let said: unknown;
  try {
    said = await sender.json(sender.home(`/api/models/${repo.id}`), {
      ask,
      again: "always",
      method: "GET",
      signal,
    });
  } catch (fault) {
    if (fault instanceof HubError && fault.kind === "missing-repo") return undefined;
    throw fault;
  }
  const { id, private: hidden } = isObject(said) ? said : {};
  if (typeof id !== "string" || typeof hidden !== "boolean") {
    return sender.wrong(ask, "does not say who may see the repository");
  }
  return { id, private: hidden };
}

/**
 * The commit that a branch is at. @throws {HubError} of kind `missing-revision`: there is no such
 * branch.
 */
export async function readHead({ sender, repo, signal }: Asking): Promise<string> {
  const ask: Ask = { doing: `look at ${quote(repo.id)} on the Hub`, repo };
  const revision = encodeURIComponent(repo.revision ?? "main");
  const said = await sender.json(sender.home(`/api/models/${repo.id}/revision/${revision}`), {
    ask,
    again: "always",
    method: "GET",
    signal,
  });
  const sha: unknown = isObject(said) ? said.sha : undefined;
  return typeof sha === "string" && isCommit(sha)
    ? sha
    : sender.wrong(ask, "does not say which commit the branch is at");
}

/** The files of a commit, by path. */
export async function readFiles(
  commit: string,
  { client, repo, signal }: Omit<Asking, "sender"> & { readonly client: HubClient },
): Promise<Map<string, HubFile>> {
  const files = await client.files(
    { kind: "model", id: repo.id, revision: repo.revision, commit },
    signal ? { signal } : {},
  );
  return new Map(files.map((file) => [file.path, file]));
}

/**
 * The first of the files that a commit does not have just as they were sent; undefined when it has
 * all.
 */
export function firstDifference(
  sent: readonly SentFile[],
  found: ReadonlyMap<string, HubFile>,
): SentFile | undefined {
  return sent.find(({ path, size, hash }) => {
    const file = found.get(path);
    return file?.size !== size || file.hash.kind !== hash.kind || file.hash.hex !== hash.hex;
  });
}

/** Whether a commit has all files just as they were sent. */
export async function sameFiles(
  commit: string,
  { files, ...asking }: Parameters<typeof readFiles>[1] & { readonly files: readonly SentFile[] },
): Promise<boolean> {
  return firstDifference(files, await readFiles(commit, asking)) === undefined;
}
