/**
 * A folder as the place of an output. Files grow in a stage beside it (stage.ts), which nobody else
 * may enter, and the whole folder gets its name in one rename at the end. Refused: an output that
 * exists (unless told), paths through links, file names that lead out of the folder.
 */
import { dirname, join, resolve } from "node:path";
import { quote, RequestError, SpaceError } from "../errors.ts";
import { type Disk, disk as machine, makeFolders } from "../io/disk.ts";
import type { Journal } from "../io/journal.ts";
import { checkRelativePath, nameKey } from "../io/names.ts";
import type { Reporter } from "../report.ts";
import type { Resumption, Sink } from "../sink.ts";
import { size } from "../size.ts";
import { CarryFiles } from "./carry_files.ts";
import { FolderFile } from "./folder_file.ts";
import {
  makeStage,
  passingStageOf,
  removeStage,
  STAGE,
  stageOf,
  sweepStages,
  takeStage,
  unlessRaced,
} from "./stage.ts";
import { checkTarget } from "./target.ts";

/** How to write an output. */
export interface FolderOptions {
  /** Replace a folder that is there already, if it is a checkpoint and nothing else. */
  readonly overwrite?: boolean;
  /**
   * Keep what it takes for a run to go on after it was stopped, and go on with what one has left
   * that was: `Sink.resumption`.
   */
  readonly resume?: boolean;
  /** Begin anew, whatever an earlier run has left. */
  readonly restart?: boolean;
  /** Other outputs of the same run, which goes on with what is left of them, too. */
  readonly others?: readonly string[];
  /** Hears what killed runs had left, and what became of it. */
  readonly report?: Reporter;
  /** The file system to use; the machine's own unless a test gives another. */
  readonly disk?: Disk;
}

/**
 * Open a folder for an output. Nothing is at `path` before `commit`, and nothing is left if the
 * sink is disposed without it, but for what a run can go on with.
 *
 * @throws {RequestError} something is at `path` already (and `overwrite` is not given, or it is no
 * checkpoint), a part of the path is a link, or another run is writing there.
 * @throws {SpaceError} the folder cannot be made.
 */
export function openFolderSink(path: string, options: FolderOptions = {}): Promise<Sink> {
  return unlessRaced(path, () => openSink(path, options));
}

async function openSink(
  path: string,
  {
    overwrite = false,
    resume: resumable = false,
    restart = false,
    others = [],
    disk = machine,
    report = () => {},
  }: FolderOptions,
): Promise<Sink> {
  const target = resolve(path);
  const parent = dirname(target);
  const check = () => checkTarget(disk, { path, target, overwrite });
  await disk.claim(parent);
  await check();
  const targets = resumable ? [target, ...others.map((other) => resolve(other))] : [];
  await sweepStages(disk, parent, { report, targets });
  const taken = resumable ? await takeStage(disk, { path, target, restart, report }) : undefined;
  await using undo = new AsyncDisposableStack();
  undo.use(taken?.owner);
  undo.use(taken?.journal);
  // A checkpoint may have its name again.
  await check();
  await makeFolders(disk, parent, undo);
  const home = await disk.realPath(parent);
  const stage = resumable ? stageOf(target) : passingStageOf(target);
  const { journal, owner } = taken ?? await makeStage(disk, stage, { undo, resumable });
  const root = join(stage, STAGE.files);

  const names = new Set<string>();
  const folders = new Map([[root, Promise.resolve()]]);
  const open = new Set<FolderFile>();
  const cleanup = undo.move();
  let state: "open" | "committed" | "disposed" = "open";

  /** See that a file of this name may begin. */
  const begin = (name: string) => {
    const reason = names.has(nameKey(name)) ? "which is taken" : checkRelativePath(name);
    if (reason !== true || state !== "open") {
      throw new RangeError(
        `Cannot create ${quote(name)} in ${quote(path)}, ` +
          (reason === true ? `which is ${state} already.` : `${reason}.`),
      );
    }
    names.add(nameKey(name));
  };
  const opened = (
    name: string,
    bytes: number,
    given: Omit<ConstructorParameters<typeof FolderFile>[2], "committed">,
  ) => {
    const committed = () => void open.delete(file);
    const file: FolderFile = new FolderFile(name, bytes, { ...given, committed });
    open.add(file);
    return file;
  };
  const carry = new CarryFiles(disk, join(stage, STAGE.carry));
  const resumption = (journal: Journal): Resumption => ({
    get records() {
      return journal.records;
    },
    append: (record) => journal.append(record),
    async reopen(name, bytes, spans) {
      begin(name);
      const place = join(root, name);
      const found = await disk.lstat(place);
      if (found?.kind !== "file" || found.size !== bytes) {
        throw new RequestError(
          `Cannot go on with ${quote(stage)}: ${quote(name)} is not there as it was written. ` +
            "Begin anew with `restart`.",
        );
      }
      return opened(name, bytes, { writer: await disk.reopen(place, bytes), spans });
    },
    async sync() {
      for (const folder of [...folders.keys(), stage, parent]) await disk.syncFolder(folder);
    },
    saveCarry: (fill) => carry.save(fill),
    readCarry: (file, take) => carry.read(file, take),
    keepCarry: (file) => carry.keep(file),
  });

  return {
    label: path,
    ...(journal ? { resumption: resumption(journal) } : {}),
    stored: {
      async read(name, { begin, end }) {
        await using reader = await disk.open(join(root, name), { growing: true });
        return await reader.read(begin, end);
      },
      async free(name) {
        const place = join(root, name);
        if (await disk.lstat(place)) await disk.remove(place);
      },
    },

    async create(name, bytes) {
      begin(name);
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
      // What an earlier run began and did not come to count.
      if (taken && await disk.lstat(place)) await disk.remove(place);
      return opened(name, bytes, { writer: await disk.create(place, bytes, { lasting: true }) });
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
        await journal?.[Symbol.asyncDispose]();
        await owner[Symbol.asyncDispose]();
        await removeStage(disk, stage);
      }
    },

    async [Symbol.asyncDispose]() {
      if (state !== "open") return;
      state = "disposed";
      for (const file of open) await file[Symbol.asyncDispose]();
      if (taken || !journal || journal.records.length < 2) return await cleanup.disposeAsync();
      // A run can go on with it.
      await journal[Symbol.asyncDispose]();
      await owner[Symbol.asyncDispose]();
    },
  };
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
      // An earlier run may have made it.
      if (!(await disk.lstat(folder))) await disk.makeFolder(folder);
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
