/**
 * Files and folders: the only place that touches Deno's I/O. Others ask a `Disk`, which a test may
 * wrap to make it fail. Faults of the system become `SpaceError`; a file that is not there is
 * `undefined`, not a fault.
 */
import { statfs } from "node:fs/promises";
import { dirname } from "node:path";
import type { ScratchFile } from "../backend.ts";
import { CheckpointError, quote, RequestError, SpaceError } from "../errors.ts";

/** What a path leads to. */
export interface DiskEntry {
  readonly kind: "file" | "folder" | "link" | "other";
  readonly size: number;
}

/** A file open for reading. */
export interface DiskReader extends AsyncDisposable {
  readonly size: number;
  /**
   * Bytes `[begin, end)`. Calls may overlap in time.
   *
   * @param into Where they may be put, and are given back from: as many bytes. A reader that has
   * them elsewhere gives those.
   * @throws {CheckpointError} the file changed, or ends early.
   */
  read<B extends ArrayBufferLike = ArrayBuffer>(
    begin: number,
    end: number,
    into?: Uint8Array<B>,
  ): Promise<Uint8Array<ArrayBuffer | B>>;
}

/** A new file open for writing. */
export interface DiskWriter extends AsyncDisposable {
  /** Put all of `bytes` at `offset`. Calls may overlap in time. */
  write(offset: number, bytes: Uint8Array): Promise<void>;
  /** Wait until everything written is on the disk. */
  sync(): Promise<void>;
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
  /** Make a file of `size` zeros that is changed in place, and removed when it is disposed of. */
  openScratch(path: string, size: number): ScratchFile;
  /** Make a folder that was not there before; `secret` keeps other users out. */
  makeFolder(path: string, options?: { readonly secret?: boolean }): Promise<void>;
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
   * another process has locked it, `impossible`: the file system knows no locks.
   */
  lock(path: string): Promise<AsyncDisposable | "impossible" | undefined>;
  /** What this machine is called; `undefined` when Deno may not ask. */
  hostName(): string | undefined;
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
  openScratch,
  makeFolder: (path, { secret = false } = {}) =>
    attempt("make folder", path, () => Deno.mkdir(path, secret ? { mode: 0o700 } : {})),
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
  freeBytes: (path) => attempt("ask for the free space of", path, () => freeBytes(path)),
};

async function may(name: "read" | "write", path: string): Promise<boolean> {
  return (await Deno.permissions.query({ name, path })).state === "granted";
}

/** Run one call to the system; what the system refuses becomes a sentence. */
async function attempt<T>(doing: string, path: string, call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (cause) {
    throw spaceError(doing, path, cause);
  }
}

/** A refusal of the system as a sentence; other errors as they are. */
function spaceError(doing: string, path: string, cause: unknown): unknown {
  if (!isSystemFault(cause)) return cause;
  return new SpaceError(`Cannot ${doing} ${quote(path)}: ${advise(cause)}`, { path, cause });
}

/**
 * See that a file can be written, and leave everything as it was: to be asked before hours of work
 * that end with it.
 *
 * @throws {RequestError} it is a folder, or there is no folder to hold it.
 * @throws {SpaceError} the system refuses it.
 */
export async function tryWrite(path: string): Promise<void> {
  const refuse = (found: string): never => {
    throw new RequestError(`Cannot write ${quote(path)}: ${found}`);
  };
  const found = await disk.mayRead(path) ? await disk.stat(path) : undefined;
  if (found?.kind === "folder") refuse("it is a folder. Give the name of a file.");
  // Whoever reads a pipe would take it for ended.
  if (found?.kind === "other") return;
  const folder = dirname(path);
  if (await disk.mayRead(folder) && (await disk.stat(folder))?.kind !== "folder") {
    refuse(`there is no folder ${quote(folder)}. Make it, or give another place.`);
  }
  await attempt("write", path, async () => {
    try {
      (await Deno.open(path, { write: true })).close();
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      (await Deno.open(path, { write: true, createNew: true })).close();
      await Deno.remove(path);
    }
  });
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

/**
 * The text of a file.
 *
 * @throws {RequestError} there is no such file.
 * @throws {SpaceError} the system refuses it.
 */
export async function readText(path: string): Promise<string> {
  return await attempt("read", path, async () => {
    try {
      return await Deno.readTextFile(path);
    } catch (cause) {
      if (!(cause instanceof Deno.errors.NotFound)) throw cause;
      throw new RequestError(`Cannot read ${quote(path)}: there is no such file.`, { cause });
    }
  });
}

/** Write a text to a file, in place of what it held. @throws {SpaceError} the system refuses it. */
export async function writeText(path: string, text: string): Promise<void> {
  await attempt("write", path, () => Deno.writeTextFile(path, text));
}

/** What is written to a file or a stream by and by. */
interface SyncWriter {
  writeSync(bytes: Uint8Array): number;
}

/**
 * Write all of a text at once.
 *
 * @param name What is written to, for messages.
 * @throws {SpaceError} the system refuses it; `Deno.errors.BrokenPipe` as its cause: nobody reads
 *   it any more.
 */
export function writeAll(writer: SyncWriter, text: string, name: string): void {
  const bytes = new TextEncoder().encode(text);
  try {
    for (let done = 0; done < bytes.length;) done += writer.writeSync(bytes.subarray(done));
  } catch (cause) {
    throw spaceError("write to", name, cause);
  }
}

/**
 * Open a file to append lines to; what was there stays.
 *
 * @throws {SpaceError} the system refuses it.
 */
export function openLog(path: string): { write(line: string): void } & Disposable {
  let file: Deno.FsFile;
  try {
    file = Deno.openSync(path, { append: true, create: true });
  } catch (cause) {
    throw spaceError("write to", path, cause);
  }
  return {
    write: (line) => writeAll(file, line, path),
    [Symbol.dispose]: () => file.close(),
  };
}

/**
 * Whether an error came from the operating system or from Deno's permissions, and not from a
 * mistake in a program. Most faults have their code; those the runtime has no name for say only
 * `(os error 27)`.
 */
function isSystemFault(error: unknown): error is Error & { code?: string } {
  if (!(error instanceof Error)) return false;
  return error instanceof Deno.errors.NotCapable || /\(os error \d+\)/.test(error.message) ||
    "code" in error && typeof error.code === "string" && /^E[A-Z0-9]+$/.test(error.code);
}

function advise(fault: Error & { code?: string }): string {
  switch (fault.code) {
    case "EACCES":
    case "EPERM":
      return "permission is denied. Check the owner and the rights of the file and of its folder.";
    case "EISDIR":
      return "it is a folder. Give the name of a file.";
    case "ENOSPC":
    case "EDQUOT":
      return "the disk is full. Free some space, or write to another disk.";
    case "EMFILE":
    case "ENFILE":
      return "too many files are open. Raise the limit (`ulimit -n`).";
    case "EROFS":
      return "the disk is read-only. Write somewhere else.";
    case "ENAMETOOLONG":
      return "its name is too long for this system.";
  }
  const text = fault.message.replace(/\.$/, "");
  return fault instanceof Deno.errors.NotCapable
    ? `${text}.`
    : `the system says “${text}”. Check the path, its permissions and the disk.`;
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

async function openReader(path: string, growing: boolean): Promise<DiskReader> {
  const file = await Deno.open(path);
  const { size, mtime } = await file.stat();
  const changed = (found: string, offset: number): never => {
    throw new CheckpointError(
      `Cannot read ${quote(path)}: it changed while it was in use, ${found}. ` +
        `Leave the checkpoint alone until Sluice is done, and start again.`,
      { file: path, offset },
    );
  };
  const inTurn = queue();
  return {
    size,
    read(begin, end, into) {
      if (!(begin >= 0 && begin <= end && end <= size)) {
        throw new RangeError(
          `Cannot read bytes ${begin} to ${end} of ${quote(path)}: it has ${size} bytes.`,
        );
      }
      if (into && into.length !== end - begin) {
        throw new RangeError(
          `Cannot read bytes ${begin} to ${end} of ${quote(path)} into ${into.length}.`,
        );
      }
      return inTurn(() =>
        attempt("read", path, async () => {
          const bytes = into ?? new Uint8Array(end - begin);
          let filled = 0;
          // Where to read and whether it changed are asked in place: each takes a microsecond, and
          // a wait for it would last as long as the kernel that the thread is in, so that nothing
          // would be read meanwhile.
          if (bytes.length > 0) file.seekSync(begin, Deno.SeekMode.Start);
          while (filled < bytes.length) {
            const got = await file.read(bytes.subarray(filled));
            if (got === null) {
              return changed(
                `ending at byte ${begin + filled} where it had ${size}`,
                begin + filled,
              );
            }
            filled += got;
          }
          if (growing) return bytes;
          const now = file.statSync();
          if (now.size !== size || now.mtime?.getTime() !== mtime?.getTime()) {
            return changed("as its size or time shows", begin);
          }
          return bytes;
        })
      );
    },
    async [Symbol.asyncDispose]() {
      await inTurn(() => Promise.resolve(file.close()));
    },
  };
}

/**
 * Bytes after which the system is asked to put a file on the disk while more is written to it: what
 * it held back until the end, everybody would wait for then.
 */
const SYNC_BYTES = 32 * 2 ** 20;

async function openWriter(path: string, size: number, lasting: boolean): Promise<DiskWriter> {
  const file = await Deno.open(path, { write: true, createNew: true });
  const inTurn = queue();
  let unsynced = 0;
  let syncing = Promise.resolve();
  const writer: DiskWriter = {
    write: (offset, bytes) =>
      inTurn(() =>
        attempt("write", path, async () => {
          file.seekSync(offset, Deno.SeekMode.Start);
          for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
          unsynced += bytes.length;
          if (!lasting || unsynced < SYNC_BYTES) return;
          unsynced = 0;
          // Its fault is told by `sync`.
          syncing = syncing.then(() => syncData(path));
          syncing.catch(() => {});
        })
      ),
    sync: () =>
      inTurn(() =>
        attempt("flush", path, async () => {
          await syncing;
          await file.sync();
        })
      ),
    async [Symbol.asyncDispose]() {
      await inTurn(() => Promise.resolve(file.close()));
      await Promise.allSettled([syncing]);
    },
  };
  try {
    await file.truncate(size);
  } catch (fault) {
    file.close();
    await Deno.remove(path);
    throw fault;
  }
  return writer;
}

function openScratch(path: string, size: number): ScratchFile {
  const doing = <T>(what: string, call: () => T): T => {
    try {
      return call();
    } catch (cause) {
      throw spaceError(what, path, cause);
    }
  };
  const file = doing(
    "create",
    () => Deno.openSync(path, { read: true, write: true, createNew: true }),
  );
  const remove = () => {
    file.close();
    doing("remove", () => Deno.removeSync(path));
  };
  using undo = new DisposableStack();
  undo.defer(remove);
  doing("create", () => file.truncateSync(size));
  undo.move();
  return {
    read(begin, into) {
      doing("read", () => {
        file.seekSync(begin, Deno.SeekMode.Start);
        for (let done = 0; done < into.length;) {
          const got = file.readSync(into.subarray(done));
          if (got === null) {
            throw new RangeError(
              `Cannot read bytes ${begin} to ${begin + into.length} of ${
                quote(path)
              }: it has ${size}.`,
            );
          }
          done += got;
        }
      });
    },
    write(begin, bytes) {
      doing("write", () => {
        file.seekSync(begin, Deno.SeekMode.Start);
        for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
      });
    },
    [Symbol.dispose]: remove,
  };
}

/** Put on the disk what a file has by now, by a handle of its own: writes need not wait for it. */
async function syncData(path: string): Promise<void> {
  using file = await Deno.open(path, { write: true });
  await file.syncData();
}

/** Runs calls one after another: a file has one position, and each call moves it. */
function queue(): <T>(call: () => Promise<T>) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  return (call) => {
    const result = last.then(call);
    // The next call comes after this one, whether it fails or not; its caller hears of the failure
    // from `result`.
    last = result.then(() => undefined, () => undefined);
    return result;
  };
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
    if (await file.tryLock(true)) return { [Symbol.asyncDispose]: close };
  } catch (error) {
    await close();
    if (isSystemFault(error) && NO_LOCKS.has(error.code ?? "")) return "impossible";
    throw error;
  }
  await close();
  return undefined;
}

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
    await disk.makeFolder(place);
    undo.defer(async () => {
      if ((await disk.list(place)).length === 0) await disk.remove(place);
    });
  }
}
