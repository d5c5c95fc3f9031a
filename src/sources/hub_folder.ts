/**
 * The files of a repository at a commit as a folder, so that a checkpoint on the Hub is opened by
 * the same rules as one on this machine. Files whose names could lead out of a folder are not
 * there.
 */
import { HubError, quote } from "../errors.ts";
import { createFileHash, type HubClient, type HubFile } from "../hub/client.ts";
import type { Disk, DiskEntry, DiskReader, ReadableDisk } from "../io/disk.ts";
import { checkRelativePath } from "../io/names.ts";
import type { Reporter } from "../report.ts";
import { size } from "../size.ts";

/** The largest file that is held in memory: companions and indexes are smaller. */
const MAX_WHOLE = 256 * 2 ** 20;

/** What reads the files. */
export interface HubFolderOptions {
  readonly client: HubClient;
  readonly disk: Disk;
  /** Where the user's cache has some of the files. */
  readonly cached: ReadonlyMap<string, string>;
  /** Reads a weight file's header. */
  readonly readHead: (
    file: string,
    span: { readonly begin: number; readonly end: number },
  ) => Promise<Uint8Array<ArrayBuffer>>;
  readonly report: Reporter;
  readonly signal: AbortSignal;
}

/** Whether a file holds tensors and is read in pieces. */
export function isWeightFile(path: string): boolean {
  return path.endsWith(".safetensors") && !path.includes("/");
}

/** The files that Sluice would touch, by path. */
export function safeFiles(files: readonly HubFile[]): Map<string, HubFile> {
  return new Map(
    files.filter(({ path }) => checkRelativePath(path) === true).map((file) => [file.path, file]),
  );
}

/** A folder named `root` with these files. */
export function hubFolder(
  root: string,
  files: ReadonlyMap<string, HubFile>,
  options: HubFolderOptions,
): ReadableDisk {
  const folders = new Map<string, Set<string>>([["", new Set()]]);
  for (const path of files.keys()) {
    for (let at = path; at !== "";) {
      const slash = at.lastIndexOf("/");
      const parent = at.slice(0, Math.max(0, slash));
      folders.getOrInsertComputed(parent, () => new Set()).add(at.slice(slash + 1));
      at = parent;
    }
  }
  const inside = (path: string) => path === root ? "" : path.slice(root.length + 1);
  const stat = (path: string): Promise<DiskEntry | undefined> => {
    const file = files.get(inside(path));
    return Promise.resolve(
      file
        ? { kind: "file", size: file.size }
        : folders.has(inside(path))
        ? { kind: "folder", size: 0 }
        : undefined,
    );
  };
  return {
    stat,
    lstat: stat,
    realPath: (path) => Promise.resolve(path),
    list: (path) => Promise.resolve([...folders.get(inside(path)) ?? []].sort()),
    open: (path) => Promise.resolve(openFile(files.get(inside(path))!, options)),
  };
}

function openFile(file: HubFile, options: HubFolderOptions): DiskReader {
  let whole: Promise<Uint8Array<ArrayBuffer>> | undefined;
  return {
    size: file.size,
    async read(begin, end) {
      if (isWeightFile(file.path)) return await options.readHead(file.path, { begin, end });
      whole ??= readWhole(file, options);
      return (await whole).slice(begin, end);
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

/** All bytes of a small file: from the user's cache if they are right there, else from the Hub. */
async function readWhole(
  file: HubFile,
  { client, disk, cached, report, signal }: HubFolderOptions,
): Promise<Uint8Array<ArrayBuffer>> {
  if (file.size > MAX_WHOLE) {
    throw new HubError(
      `Cannot read ${quote(file.path)} of ${quote(file.repo.id)}: it has ${
        size(file.size)
      }, more ` +
        `than the ${size(MAX_WHOLE)} that are accepted of a file beside the weights.`,
      { kind: "protocol" },
    );
  }
  const path = cached.get(file.path);
  if (path !== undefined) {
    await using reader = await disk.open(path);
    const bytes = await reader.read(0, reader.size);
    if (createFileHash(file).update(bytes).digest("hex") === file.hash.hex) return bytes;
    report({
      type: "warning",
      code: "cache-damaged",
      message: `${quote(path)} is not what the repository promises: it is fetched from the Hub.`,
    });
  }
  return await client.readWhole(file, { signal });
}
