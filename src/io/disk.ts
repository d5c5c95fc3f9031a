/**
 * Files and folders: this and its neighbours are the only place that touches Deno's I/O. Others ask
 * a `Disk`, which a test may wrap to make it fail. Faults of the system become `SpaceError`; a file
 * that is not there is `undefined`, not a fault.
 */
import { dirname } from "node:path";
import type { ScratchFile } from "../backend.ts";
import {
  type DiskReader,
  type DiskWriter,
  openReader,
  openWriter,
  reopenWriter,
} from "./open_files.ts";
import { SpaceError } from "../errors.ts";
import { openScratch } from "./scratch_file.ts";
import { attempt, isSystemFault } from "./system_faults.ts";

export type { DiskReader, DiskWriter } from "./open_files.ts";

/** What a path leads to. */
export interface DiskEntry {
  readonly kind: "file" | "folder" | "link" | "other";
  readonly size: number;
}

/**
 * Files as far as a checkpoint asks for them: this machine's, or those of a repository of the Hub.
 */
export interface ReadableDisk {
  /** What is there, links followed; `undefined` when nothing is. */
  stat(path: string): Promise<DiskEntry | undefined>;
  /** What is there, a link told as such. */
  lstat(path: string): Promise<DiskEntry | undefined>;
  /** Names in a folder, sorted. */
  list(path: string): Promise<string[]>;
  /** The path with all links resolved. */
  realPath(path: string): Promise<string>;
  /** Open a file for reading. */
  open(path: string): Promise<DiskReader>;
}

/** What Sluice asks of a file system. Every method may throw `SpaceError`. */
export interface Disk extends ReadableDisk {
  /** Whether Deno lets this program look at a path at all. */
  mayRead(path: string): Promise<boolean>;
  /** Whether Deno lets this program change what is at a path. */
  mayWrite(path: string): Promise<boolean>;
  /** Open a file for reading; a `growing` one is still being written by this program. */
  open(path: string, options?: { readonly growing?: boolean }): Promise<DiskReader>;
  /**
   * Make a file of `size` zeros that was not there before; a `lasting` one will be synced, which
   * begins while it is written.
   */
  create(
    path: string,
    size: number,
    options?: { readonly lasting?: boolean },
  ): Promise<DiskWriter>;
  /** Go on writing a file that is there; it has `size` bytes from now on. */
  reopen(path: string, size: number): Promise<DiskWriter>;
  /** Make a file of `size` zeros that is changed in place, and removed when it is disposed of. */
  openScratch(path: string, size: number): ScratchFile;
  /** Make a folder that was not there before; `secret` keeps other users out. */
  makeFolder(path: string, options?: { readonly secret?: boolean }): Promise<void>;
  /** Whether a folder is this user's own, and nobody else may enter it. */
  isSecret(path: string): Promise<boolean>;
  /** Give another name; a file or an empty folder at `to` is replaced. */
  rename(from: string, to: string): Promise<void>;
  /**
   * Remove a file, or a folder and, with `recursive`, all in it. Links are removed, not followed.
   */
  remove(path: string, options?: { readonly recursive?: boolean }): Promise<void>;
  /** Wait until the names in a folder are on the disk. */
  syncFolder(path: string): Promise<void>;
  /**
   * See that files may be made in a folder, whatever their names, or ask the person at the
   * terminal.
   *
   * @throws {SpaceError} Deno does not allow it.
   */
  claim(folder: string): Promise<void>;
  /**
   * Lock a file that is there, until the result is disposed of or the process ends; undefined:
   * another process has locked it, `impossible`: the file system knows no locks, or grants them to
   * all who ask.
   */
  lock(path: string): Promise<AsyncDisposable | "impossible" | undefined>;
  /** What this machine is called; `undefined` when Deno may not ask. */
  hostName(): string | undefined;
  /** Whether a process of this machine goes on; `undefined` where the system does not tell. */
  isAlive(process: number): Promise<boolean | undefined>;
  /**
   * Bytes that may still be written at a path; `undefined` when the system does not tell or Deno
   * may not ask.
   */
  freeBytes(path: string): Promise<number | undefined>;
}

/** The machine's own file system. */
export const disk: Disk = {
  stat: (path) => entry("look at", path, Deno.stat),
  lstat: (path) => entry("look at", path, Deno.lstat),
  mayRead: (path) => may("read", path),
  mayWrite: (path) => may("write", path),
  list: (path) => attempt("list", path, () => list(path)),
  realPath: (path) => attempt("resolve", path, () => Deno.realPath(path)),
  open: (path, { growing = false } = {}) => attempt("open", path, () => openReader(path, growing)),
  create: (path, size, { lasting = false } = {}) =>
    attempt("create", path, () => openWriter(path, size, lasting)),
  reopen: (path, size) => attempt("open", path, () => reopenWriter(path, size)),
  openScratch,
  makeFolder: (path, { secret = false } = {}) =>
    attempt("make folder", path, () => Deno.mkdir(path, secret ? { mode: 0o700 } : {})),
  isSecret: (path) => attempt("look at", path, () => isSecret(path)),
  rename: (from, to) => attempt("rename", from, () => Deno.rename(from, to)),
  remove: (path, { recursive = false } = {}) =>
    attempt("remove", path, () => Deno.remove(path, { recursive })),
  syncFolder: (path) => attempt("flush folder", path, () => syncFolder(path)),
  claim: (folder) => attempt("make files in", folder, () => claim(folder)),
  lock: (path) => attempt("lock", path, () => lock(path)),
  hostName() {
    const { state } = Deno.permissions.querySync({ name: "sys", kind: "hostname" });
    return state === "granted" ? Deno.hostname() : undefined;
  },
  isAlive,
  freeBytes: (path) => attempt("ask for the free space of", path, () => freeBytes(path)),
};

async function may(name: "read" | "write", path: string): Promise<boolean> {
  return (await Deno.permissions.query({ name, path })).state === "granted";
}

/**
 * Make a new folder in the system's temporary one, which nobody else may enter; its path.
 *
 * @throws {SpaceError} the system refuses it.
 */
export async function makeTemporary(prefix: string): Promise<string> {
  return await attempt(
    "make a folder",
    "in the system's temporary folder",
    () => Deno.makeTempDir({ prefix }),
  );
}

/** A missing file, a path through a file, links in a circle. */
const NOTHING_THERE: ReadonlySet<string> = new Set(["ENOENT", "ENOTDIR", "ELOOP"]);

async function entry(
  doing: string,
  path: string,
  ask: (path: string) => Promise<Deno.FileInfo>,
): Promise<DiskEntry | undefined> {
  return await attempt(doing, path, async () => {
    try {
      const { isFile, isDirectory, isSymlink, size } = await ask(path);
      const kind = isFile ? "file" : isDirectory ? "folder" : isSymlink ? "link" : "other";
      return { kind, size };
    } catch (fault) {
      if (isSystemFault(fault) && NOTHING_THERE.has(fault.code ?? "")) return undefined;
      throw fault;
    }
  });
}

async function list(path: string): Promise<string[]> {
  const names: string[] = [];
  for await (const { name } of Deno.readDir(path)) names.push(name);
  return names.sort();
}

async function syncFolder(path: string): Promise<void> {
  // Windows opens no folders as files, and keeps names safe without being asked.
  if (Deno.build.os === "windows") return;
  using folder = await Deno.open(path);
  await folder.sync();
}

async function freeBytes(path: string): Promise<number | undefined> {
  // Asked first: a program that may not know the free space should not have to stop at a prompt.
  const { state } = await Deno.permissions.query({ name: "sys", kind: "statfs" });
  if (state !== "granted") return undefined;
  // Here, because Node's file system takes longer to load than most of what is asked of Sluice.
  const { statfs } = await import("node:fs/promises");
  const { bavail, bsize } = await statfs(path);
  return bavail * bsize;
}

/**
 * Deno refuses one file after another; what is needed is the folder that they are in, under names
 * that no one knows before.
 */
async function claim(folder: string): Promise<void> {
  for (const name of ["read", "write"] as const) {
    const { state } = await Deno.permissions.request({ name, path: folder });
    if (state === "granted") continue;
    throw new Deno.errors.NotCapable(
      `Requires ${name} access to ${
        JSON.stringify(folder)
      }, run again with the --allow-${name} flag`,
    );
  }
}

async function lock(path: string): Promise<AsyncDisposable | "impossible" | undefined> {
  const file = await Deno.open(path, { read: true, write: true });
  let open = true;
  const close = () => {
    if (open) file.close();
    open = false;
    return Promise.resolve();
  };
  try {
    // Who had it locked may have removed the file, and another may have its name by now.
    if (await file.tryLock(true) && (await file.stat()).ino === await inodeOf(path)) {
      if (await keepsOut(path)) return { [Symbol.asyncDispose]: close };
      await close();
      return "impossible";
    }
  } catch (error) {
    await close();
    if (isSystemFault(error) && NO_LOCKS.has(error.code ?? "")) return "impossible";
    throw error;
  }
  await close();
  return undefined;
}

/** Whether a file that is locked cannot be locked again: file systems of clusters may let all. */
async function keepsOut(path: string): Promise<boolean> {
  using second = await Deno.open(path, { read: true, write: true });
  return !(await second.tryLock(true));
}

async function isSecret(path: string): Promise<boolean> {
  const { mode, uid } = await Deno.lstat(path);
  if (mode === null || uid === null) return true;
  // Into a folder that is another's and closed only root comes, who may ask for its number.
  const { state } = await Deno.permissions.query({ name: "sys", kind: "uid" });
  return (mode & 0o077) === 0 && (state !== "granted" || uid === Deno.uid());
}

/** The number of a file on its disk; undefined where there is none, null where files have none. */
async function inodeOf(path: string): Promise<number | null | undefined> {
  try {
    return (await Deno.lstat(path)).ino;
  } catch (fault) {
    if (fault instanceof Deno.errors.NotFound) return undefined;
    throw fault;
  }
}

async function isAlive(process: number): Promise<boolean | undefined> {
  if (Deno.build.os !== "linux" || !(await may("read", "/proc"))) return undefined;
  const path = `/proc/${process}/stat`;
  return await attempt("look at", path, async () => {
    try {
      const text = await Deno.readTextFile(path);
      // After its name, in parentheses, its state: Z and X are of one that has ended, and that its
      // parent has not asked for yet.
      return !/^[ZX]/.test(text.slice(text.lastIndexOf(")") + 2));
    } catch (fault) {
      if (isSystemFault(fault) && GONE.has(fault.code ?? "")) return false;
      throw fault;
    }
  });
}

/** What is said of a process that is not there, or ends while it is looked at. */
const GONE: ReadonlySet<string> = new Set(["ENOENT", "ESRCH"]);

/** What file systems say that know no locks. */
const NO_LOCKS: ReadonlySet<string> = new Set(["ENOTSUP", "EOPNOTSUPP", "ENOSYS", "ENOLCK"]);

/**
 * Make a folder and those above it that are not there, and have them removed again, if empty, on
 * `undo`.
 */
export async function makeFolders(
  disk: Disk,
  folder: string,
  undo: AsyncDisposableStack,
): Promise<void> {
  const missing: string[] = [];
  for (let place = folder; !(await disk.stat(place)); place = dirname(place)) {
    // A drive that is not there is its own parent; making it fails with a sentence.
    missing.push(place);
    if (dirname(place) === place) break;
  }
  for (const place of missing.toReversed()) {
    try {
      await disk.makeFolder(place);
    } catch (error) {
      // Another process that needs it, too, may have made it meanwhile.
      if (!(error instanceof SpaceError && await disk.stat(place))) throw error;
      continue;
    }
    undo.defer(async () => {
      if ((await disk.list(place)).length === 0) await disk.remove(place);
    });
    // What is saved in it is lost with its name.
    if (await disk.mayRead(dirname(place))) await disk.syncFolder(dirname(place));
  }
}
