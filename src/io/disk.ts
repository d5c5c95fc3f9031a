/**
 * Files and folders: the only place that touches Deno's I/O. Others ask a `Disk`, which a test may wrap to make it fail. Faults of the
 * system become `SpaceError`; a file that is not there is `undefined`, not a fault.
 */
import { statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { CheckpointError, quote, SpaceError } from "../errors.ts";

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
   * @throws {CheckpointError} the file changed, or ends early.
   */
  read(begin: number, end: number): Promise<Uint8Array<ArrayBuffer>>;
}

/** A new file open for writing. */
export interface DiskWriter extends AsyncDisposable {
  /** Put all of `bytes` at `offset`. Calls may overlap in time. */
  write(offset: number, bytes: Uint8Array): Promise<void>;
  /** Wait until everything written is on the disk. */
  sync(): Promise<void>;
}

/** Files as far as a checkpoint asks for them: this machine's, or those of a repository of the Hub. */
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
  /** Open a file for reading; a `growing` one is still being written by this program. */
  open(path: string, options?: { readonly growing?: boolean }): Promise<DiskReader>;
  /** Make a file of `size` zeros that was not there before. */
  create(path: string, size: number): Promise<DiskWriter>;
  /** Make a folder that was not there before; `secret` keeps other users out. */
  makeFolder(path: string, options?: { readonly secret?: boolean }): Promise<void>;
  /** Give another name; a file or an empty folder at `to` is replaced. */
  rename(from: string, to: string): Promise<void>;
  /** Remove a file, or a folder and, with `recursive`, all in it. Links are removed, not followed. */
  remove(path: string, options?: { readonly recursive?: boolean }): Promise<void>;
  /** Wait until the names in a folder are on the disk. */
  syncFolder(path: string): Promise<void>;
  /** Bytes that may still be written at a path; `undefined` when the system does not tell or Deno may not ask. */
  freeBytes(path: string): Promise<number | undefined>;
}

/** The machine's own file system. */
export const disk: Disk = {
  stat: (path) => entry("look at", path, Deno.stat),
  lstat: (path) => entry("look at", path, Deno.lstat),
  mayRead: async (path) =>
    (await Deno.permissions.query({ name: "read", path })).state === "granted",
  list: (path) => attempt("list", path, () => list(path)),
  realPath: (path) => attempt("resolve", path, () => Deno.realPath(path)),
  open: (path, { growing = false } = {}) => attempt("open", path, () => openReader(path, growing)),
  create: (path, size) => attempt("create", path, () => openWriter(path, size)),
  makeFolder: (path, { secret = false } = {}) =>
    attempt("make folder", path, () => Deno.mkdir(path, secret ? { mode: 0o700 } : {})),
  rename: (from, to) => attempt("rename", from, () => Deno.rename(from, to)),
  remove: (path, { recursive = false } = {}) =>
    attempt("remove", path, () => Deno.remove(path, { recursive })),
  syncFolder: (path) => attempt("flush folder", path, () => syncFolder(path)),
  freeBytes: (path) => attempt("ask for the free space of", path, () => freeBytes(path)),
};

/** Run one call to the system; what the system refuses becomes a sentence. */
async function attempt<T>(doing: string, path: string, call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (cause) {
    if (!isSystemFault(cause)) throw cause;
    throw new SpaceError(`Cannot ${doing} ${quote(path)}: ${advise(cause)}`, { path, cause });
  }
}

/**
 * Whether an error came from the operating system or from Deno's permissions, and not from a mistake in a program. Most faults have their
 * code; those the runtime has no name for say only `(os error 27)`.
 */
function isSystemFault(error: unknown): error is Error & { code?: string } {
  if (!(error instanceof Error)) return false;
  return error instanceof Deno.errors.NotCapable || /\(os error \d+\)/.test(error.message) ||
    "code" in error && typeof error.code === "string" && /^E[A-Z0-9]+$/.test(error.code);
}

function advise(fault: Error & { code?: string }): string {
  switch (fault.code) {
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
    read(begin, end) {
      if (!(begin >= 0 && begin <= end && end <= size)) {
        throw new RangeError(
          `Cannot read bytes ${begin} to ${end} of ${quote(path)}: it has ${size} bytes.`,
        );
      }
      return inTurn(() =>
        attempt("read", path, async () => {
          const bytes = new Uint8Array(end - begin);
          let filled = 0;
          // Where to read and whether it changed are asked in place: each takes a microsecond, and a wait for it would last as long
          // as the kernel that the thread is in, so that nothing would be read meanwhile.
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

async function openWriter(path: string, size: number): Promise<DiskWriter> {
  const file = await Deno.open(path, { write: true, createNew: true });
  const inTurn = queue();
  const writer: DiskWriter = {
    write: (offset, bytes) =>
      inTurn(() =>
        attempt("write", path, async () => {
          file.seekSync(offset, Deno.SeekMode.Start);
          for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
        })
      ),
    sync: () => inTurn(() => attempt("flush", path, () => file.sync())),
    async [Symbol.asyncDispose]() {
      await inTurn(() => Promise.resolve(file.close()));
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

/** Runs calls one after another: a file has one position, and each call moves it. */
function queue(): <T>(call: () => Promise<T>) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  return (call) => {
    const result = last.then(call);
    // The next call comes after this one, whether it fails or not; its caller hears of the failure from `result`.
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

/** Make a folder and those above it that are not there, and have them removed again, if empty, on `undo`. */
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
