/**
 * The folder in which Python programs keep what they downloaded from the Hub, read and never
 * written. Layout (huggingface_hub's guide “Understand caching”):
 * `models--org--name/snapshots/<commit>/<path>`, links into `blobs/`; `refs/<revision>` holds a
 * commit.
 */
import type { HubFile } from "../hub/client.ts";
import { isCommit, type RepoSpec } from "../hub/repo_spec.ts";
import type { Disk } from "../io/disk.ts";
import { checkRelativePath } from "../io/names.ts";

/** Where a repository would be. */
function repoFolder(cacheFolder: string, { kind, id }: Pick<RepoSpec, "kind" | "id">): string {
  return `${cacheFolder}/${kind}s--${id.replaceAll("/", "--")}`;
}

/** Where a commit's files would be. */
function snapshotFolder(
  cacheFolder: string,
  repo: Pick<RepoSpec, "kind" | "id"> & { readonly commit: string },
): string {
  return `${repoFolder(cacheFolder, repo)}/snapshots/${repo.commit}`;
}

/**
 * Which of the files the cache has: of the right size, and inside the cache when links are
 * followed.
 *
 * @returns real paths by path in the repository
 */
export async function findCached(
  files: Iterable<HubFile>,
  { disk, cacheFolder }: { readonly disk: Disk; readonly cacheFolder: string | undefined },
): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  if (cacheFolder === undefined || !await disk.mayRead(cacheFolder)) return found;
  const home = await disk.stat(cacheFolder) && await disk.realPath(cacheFolder);
  if (!home) return found;
  for (const file of files) {
    const path = `${snapshotFolder(cacheFolder, file.repo)}/${file.path}`;
    const entry = await disk.stat(path);
    if (entry?.kind !== "file" || entry.size !== file.size) continue;
    const real = await disk.realPath(path);
    if (real.startsWith(`${home}/`) || real.startsWith(`${home}\\`)) found.set(file.path, real);
  }
  return found;
}

/** The folder of a revision that the cache has, and its commit; for work without a network. */
export async function findSnapshot(
  repo: RepoSpec,
  { disk, cacheFolder }: { readonly disk: Disk; readonly cacheFolder: string | undefined },
): Promise<{ readonly folder: string; readonly commit: string } | undefined> {
  if (cacheFolder === undefined || !await disk.mayRead(cacheFolder)) return undefined;
  const revision = repo.revision ?? "main";
  const commit = isCommit(revision) ? revision : await readRef(repo, revision);
  if (commit === undefined) return undefined;
  const folder = snapshotFolder(cacheFolder, { ...repo, commit });
  return (await disk.stat(folder))?.kind === "folder" ? { folder, commit } : undefined;

  async function readRef(repo: RepoSpec, revision: string): Promise<string | undefined> {
    const path = `${repoFolder(cacheFolder!, repo)}/refs/${revision}`;
    if (checkRelativePath(revision) !== true) return undefined;
    const entry = await disk.stat(path);
    if (entry?.kind !== "file" || entry.size > 64) return undefined;
    await using reader = await disk.open(path);
    const text = new TextDecoder().decode(await reader.read(0, reader.size)).trim();
    return isCommit(text) ? text : undefined;
  }
}
