/**
 * A folder as the place of an output. Files grow in a folder beside it,
 * `<name>.sluice-partial-<random>`, which nobody else may enter, and the whole folder gets its name
 * in one rename at the end. What killed runs have left beside it is removed. Refused: an output
 * that exists (unless told), paths through links, file names that lead out of the folder.
 */
import { basename, dirname, join, parse, resolve, sep } from "node:path";
import { quote, RequestError, SpaceError } from "../errors.ts";
import { type Disk, disk as machine, type DiskWriter, makeFolders } from "../io/disk.ts";
import { own, sweep } from "../io/left_behind.ts";
import { checkRelativePath, nameKey } from "../io/names.ts";
import type { Reporter } from "../report.ts";
import type { Sink, SinkFile } from "../sink.ts";
import { size } from "../size.ts";

/** How to write an output. */
export interface FolderOptions {
  /** Replace a folder that is there already, if it is a checkpoint and nothing else. */
  readonly overwrite?: boolean;
  /** Hears what killed runs had left, and what became of it. */
  readonly report?: Reporter;
  /** The file system to use; the machine's own unless a test gives another. */
  readonly disk?: Disk;
}

/**
 * Open a folder for an output. Nothing is at `path` before `commit`, and nothing is left if the
 * sink is disposed without it.
 *
 * @throws {RequestError} something is at `path` already (and `overwrite` is not given, or it is no
 * checkpoint), or a part of the path is a link.
 * @throws {SpaceError} the folder cannot be made.
 */
export async function openFolderSink(
  path: string,
  { overwrite = false, disk = machine, report = () => {} }: FolderOptions = {},
): Promise<Sink> {
  const target = resolve(path);
  const parent = dirname(target);
  const check = () => checkTarget(disk, { path, target, overwrite });
  await disk.claim(parent);
  await check();
  await sweepPartial(disk, parent, report);
  // A checkpoint may have its name again.
  await check();
  await using undo = new AsyncDisposableStack();
  await makeFolders(disk, parent, undo);
  const home = await disk.realPath(parent);
  const stage = join(
    parent,
    `${basename(target)}.sluice-partial-${crypto.randomUUID().slice(0, 8)}`,
  );
  await disk.makeFolder(stage, { secret: true });
  undo.defer(() => disk.remove(stage, { recursive: true }));
  const owner = undo.use(await own(disk, stage));
  const root = join(stage, "new");
  await disk.makeFolder(root);

  const names = new Set<string>();
  const folders = new Map([[root, Promise.resolve()]]);
  const open = new Set<FolderFile>();
  const cleanup = undo.move();
  let state: "open" | "committed" | "disposed" = "open";

  return {
    label: path,

    async create(name, bytes) {
      const reason = names.has(nameKey(name)) ? "which is taken" : checkRelativePath(name);
      if (reason !== true || state !== "open") {
        throw new RangeError(
          `Cannot create ${quote(name)} in ${quote(path)}, ` +
            (reason === true ? `which is ${state} already.` : `${reason}.`),
        );
      }
      names.add(nameKey(name));
      const due = [...open].reduce((n, file) => n + file.unwritten, bytes);
      const free = await disk.freeBytes(stage);
      if (free !== undefined && due > free) {
        throw new SpaceError(
          `Cannot create ${quote(name)} in ${quote(path)}: ${size(due)} are still to be written, ` +
            `but the disk has ${size(free)} free. Free some space, or write to another disk.`,
          { path },
        );
      }
      const place = join(root, name);
      await makeStaged(disk, dirname(place), folders);
      const file = new FolderFile(
        name,
        bytes,
        await disk.create(place, bytes, { lasting: true }),
        () => {
          open.delete(file);
        },
      );
      open.add(file);
      return file;
    },

    async commit() {
      const [unfinished] = open;
      if (state !== "open" || unfinished) {
        throw new RangeError(
          `Cannot commit ${quote(path)}: ` +
            (unfinished
              ? `${quote(unfinished.name)} is not committed.`
              : `it is ${state} already.`),
        );
      }
      await check();
      if (await disk.realPath(parent) !== home) {
        throw new RequestError(
          `Cannot commit ${quote(path)}: the folder it belongs in was moved or replaced meanwhile.`,
        );
      }
      for (const folder of folders.keys()) await disk.syncFolder(folder);
      await putInPlace(disk, { root, target, old: join(stage, "old") });
      state = "committed";
      try {
        await disk.syncFolder(parent);
      } finally {
        await owner[Symbol.asyncDispose]();
        await disk.remove(stage, { recursive: true });
      }
    },

    async [Symbol.asyncDispose]() {
      if (state !== "open") return;
      state = "disposed";
      for (const file of open) await file[Symbol.asyncDispose]();
      await cleanup.disposeAsync();
    },
  };
}

/** What the last part of a partial output's name is. */
const PARTIAL = /\.sluice-partial-[0-9a-f]{8}$/;

/**
 * Remove partial outputs of killed runs; a checkpoint that one was about to replace gets its name
 * back.
 */
async function sweepPartial(disk: Disk, parent: string, report: Reporter): Promise<void> {
  await sweep(disk, {
    parent,
    pattern: PARTIAL,
    nameStrangers: true,
    report,
    async rescue(stage) {
      const old = join(stage, "old"), target = stage.replace(PARTIAL, "");
      if (!(await disk.lstat(old)) || await disk.lstat(target)) return undefined;
      await disk.rename(old, target);
      return {
        stays: false,
        message: `Put ${quote(target)} back in its place: a run was killed while it replaced it.`,
      };
    },
  });
}

/**
 * Refuse an output path that leads through a link, or where there is something that may not be
 * replaced.
 */
async function checkTarget(
  disk: Disk,
  { path, target, overwrite }: { path: string; target: string; overwrite: boolean },
): Promise<void> {
  const refuse = (found: string): never => {
    throw new RequestError(`Cannot write to ${quote(path)}: ${found}`);
  };
  const { root } = parse(target);
  const parts = target.slice(root.length).split(sep).filter((part) => part !== "");
  if (parts.length === 0) refuse("it is the root of the disk. Give a new folder.");
  let place = root;
  for (const [depth, part] of parts.entries()) {
    place = join(place, part);
    const last = depth === parts.length - 1;
    // Above what Deno may read, whoever gave the permission vouches for the path.
    if (!last && !(await disk.mayRead(place))) continue;
    const kind = (await disk.lstat(place))?.kind;
    if (kind === undefined) return;
    // Links right under the root are the system's own: macOS has /tmp and /var as links.
    if (kind === "link" && (last || depth > 0)) {
      refuse(`${quote(place)} is a link. Give the path it leads to.`);
    }
    if (kind !== "folder" && kind !== "link") {
      refuse(`${quote(place)} is not a folder. Give a new folder.`);
    }
  }
  const names = await disk.list(target);
  if (names.length === 0) return;
  if (!overwrite) {
    refuse("the folder exists and is not empty. Give a new folder, or say `overwrite`.");
  }
  await checkReplaceable(disk, target, names, refuse);
}

/**
 * `overwrite` deletes: only what looks like a checkpoint, and not a home folder or a repository
 * that happens to hold one.
 */
async function checkReplaceable(
  disk: Disk,
  target: string,
  names: readonly string[],
  refuse: (found: string) => never,
): Promise<void> {
  const advice = "so it is not replaced. Remove it yourself, or give another folder.";
  if (!names.some((name) => /\.(?:safetensors|gguf)$/.test(name))) {
    refuse(`the folder does not look like a checkpoint, ${advice}`);
  }
  for (const name of names) {
    const kind = (await disk.lstat(join(target, name)))?.kind;
    if (kind === "folder" && name !== "additional_chat_templates" || name.startsWith(".")) {
      refuse(`the folder holds ${quote(name)}, which no checkpoint of Sluice does, ${advice}`);
    }
  }
}

/**
 * Make a folder of the stage and those above it; `made` holds the ones that are there or being
 * made.
 */
function makeStaged(disk: Disk, folder: string, made: Map<string, Promise<void>>): Promise<void> {
  return made.getOrInsertComputed(
    folder,
    async () => {
      await makeStaged(disk, dirname(folder), made);
      await disk.makeFolder(folder);
    },
  );
}

/** Give the finished folder its name. What had the name before is kept until that is done. */
async function putInPlace(
  disk: Disk,
  { root, target, old }: { root: string; target: string; old: string },
): Promise<void> {
  const replaces = await disk.lstat(target) !== undefined;
  if (replaces) await disk.rename(target, old);
  try {
    await disk.rename(root, target);
  } catch (fault) {
    if (replaces) await disk.rename(old, target);
    throw fault;
  }
}

/** Bytes `[begin, end)`. */
interface Span {
  readonly begin: number;
  readonly end: number;
}

/** A file of the stage. */
class FolderFile implements SinkFile {
  readonly name: string;
  readonly #size: number;
  readonly #writer: DiskWriter;
  readonly #committed: () => void;
  /** What was written: spans in order, apart from each other. */
  #spans: readonly Span[] = [];
  #open = true;

  constructor(name: string, size: number, writer: DiskWriter, committed: () => void) {
    this.name = name;
    this.#size = size;
    this.#writer = writer;
    this.#committed = committed;
  }

  /** Bytes that were never written. */
  get unwritten(): number {
    return this.#spans.reduce((n, { begin, end }) => n - (end - begin), this.#size);
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    const end = offset + bytes.length;
    if (!this.#open || !Number.isSafeInteger(offset) || offset < 0 || end > this.#size) {
      throw new RangeError(
        this.#open
          ? `Cannot write bytes ${offset} to ${end} of ${quote(this.name)}: it has ${this.#size}.`
          : `Cannot write ${quote(this.name)}: it is closed.`,
      );
    }
    await this.#writer.write(offset, bytes);
    if (bytes.length > 0) this.#spans = union(this.#spans, { begin: offset, end });
  }

  async commit(): Promise<void> {
    if (!this.#open) throw new RangeError(`Cannot commit ${quote(this.name)}: it is closed.`);
    const missing = this.unwritten;
    if (missing > 0) {
      throw new RangeError(
        `Cannot commit ${quote(this.name)}: ${missing} of ${this.#size} bytes were not written.`,
      );
    }
    await this.#writer.sync();
    await this[Symbol.asyncDispose]();
    this.#committed();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.#writer[Symbol.asyncDispose]();
  }
}

/** Spans in order and apart from each other, with one more. */
function union(spans: readonly Span[], { begin, end }: Span): Span[] {
  const before = spans.filter((span) => span.end < begin);
  const after = spans.filter((span) => span.begin > end);
  for (const span of spans.slice(before.length, spans.length - after.length)) {
    begin = Math.min(begin, span.begin);
    end = Math.max(end, span.end);
  }
  return [...before, { begin, end }, ...after];
}
