/**
 * A twin of the machine's disk that keeps a log of what was done in a folder, in the order in which
 * it was done, and lets the n-th operation fail as the system would have it fail.
 */
import { relative } from "node:path";
import { type Disk, disk as machine, type DiskWriter } from "../../src/io/disk.ts";
import { spaceError } from "../../src/io/system_faults.ts";

/** What changed a folder, with paths in it; what writes to an open file names it by its number. */
export type Operation =
  | { readonly kind: "create"; readonly path: string; readonly size: number; readonly file: number }
  | { readonly kind: "reopen"; readonly path: string; readonly size: number; readonly file: number }
  | {
    readonly kind: "write";
    readonly file: number;
    readonly offset: number;
    readonly bytes: Uint8Array;
  }
  /** Everything before `since` that belongs to the file is on the disk. */
  | { readonly kind: "sync"; readonly file: number; readonly since: number }
  | { readonly kind: "makeFolder"; readonly path: string; readonly secret: boolean }
  | { readonly kind: "syncFolder"; readonly path: string; readonly since: number }
  | { readonly kind: "rename"; readonly path: string; readonly to: string }
  | { readonly kind: "remove"; readonly path: string };

/** What the system may say, by the name of its fault. */
export const FAULTS = {
  ENOSPC: "No space left on device (os error 28)",
  EIO: "Input/output error (os error 5)",
  EACCES: "Permission denied (os error 13)",
} as const;

/** What a disk that is full refuses. */
const TAKES_ROOM = new Set(["write", "flush", "create", "make folder", "flush folder"]);

/** Which operation fails, and how. */
export interface Failing {
  readonly fault: keyof typeof FAULTS;
  /** Counted from 0, over the operations that can. */
  readonly at: number;
  /** Whether only what takes room can fail, or what only looks too. */
  readonly of: "writes" | "all";
  /** Whether all that follow fail too. */
  readonly persistent: boolean;
}

/** A disk, and what was done on it. */
export interface Twin {
  readonly disk: Disk;
  readonly log: readonly Operation[];
  /** How many operations were asked for, by what can fail. */
  readonly asked: Readonly<Record<Failing["of"], number>>;
  /** How many of them failed. */
  readonly failed: number;
}

/** Make a twin whose log is of a folder. */
export function twinOf(base: string, failing?: Failing): Twin {
  const log: Operation[] = [];
  const inside = (path: string) => relative(base, path);
  const asked = { writes: 0, all: 0 };
  let [failed, files] = [0, 0];
  /** Count an operation, and fail it if it is its turn. */
  const ask = async <T>(doing: string, path: string, work: () => Promise<T>): Promise<T> => {
    const n = { writes: asked.writes, all: asked.all++ };
    const takesRoom = TAKES_ROOM.has(doing);
    if (takesRoom) asked.writes++;
    if (
      failing && (failing.of === "all" || takesRoom) &&
      (n[failing.of] === failing.at || failing.persistent && n[failing.of] > failing.at)
    ) {
      failed++;
      const { fault } = failing;
      const cause = Object.assign(new Error(FAULTS[fault]), { code: fault });
      throw spaceError(doing, path, cause);
    }
    return await work();
  };
  const logged = (path: string, file: number, writer: DiskWriter): DiskWriter => ({
    async write(offset, bytes) {
      // What was asked for before the power went may be on the disk or not.
      log.push({ kind: "write", file, offset, bytes: bytes.slice() });
      await ask("write", path, () => writer.write(offset, bytes));
    },
    async sync() {
      const since = log.length;
      await ask("flush", path, () => writer.sync());
      log.push({ kind: "sync", file, since });
    },
    [Symbol.asyncDispose]: () => writer[Symbol.asyncDispose](),
  });
  const disk: Disk = {
    ...machine,
    stat: (path) => ask("look at", path, () => machine.stat(path)),
    lstat: (path) => ask("look at", path, () => machine.lstat(path)),
    list: (path) => ask("list", path, () => machine.list(path)),
    realPath: (path) => ask("resolve", path, () => machine.realPath(path)),
    open: (path, options) => ask("open", path, () => machine.open(path, options)),
    lock: (path) => ask("lock", path, () => machine.lock(path)),
    async create(path, size, options) {
      const writer = await ask("create", path, () => machine.create(path, size, options));
      log.push({ kind: "create", path: inside(path), size, file: files });
      return logged(path, files++, writer);
    },
    async reopen(path, size) {
      const writer = await ask("open", path, () => machine.reopen(path, size));
      log.push({ kind: "reopen", path: inside(path), size, file: files });
      return logged(path, files++, writer);
    },
    async makeFolder(path, options) {
      await ask("make folder", path, () => machine.makeFolder(path, options));
      log.push({ kind: "makeFolder", path: inside(path), secret: options?.secret ?? false });
    },
    async syncFolder(path) {
      const since = log.length;
      await ask("flush folder", path, () => machine.syncFolder(path));
      log.push({ kind: "syncFolder", path: inside(path), since });
    },
    async rename(from, to) {
      await ask("rename", from, () => machine.rename(from, to));
      log.push({ kind: "rename", path: inside(from), to: inside(to) });
    },
    async remove(path, options) {
      await ask("remove", path, () => machine.remove(path, options));
      log.push({ kind: "remove", path: inside(path) });
    },
  };
  return {
    disk,
    log,
    asked,
    get failed() {
      return failed;
    },
  };
}
