/**
 * Folders for passing use, and what is left of them by a process that was killed. Each holds a file
 * that its process keeps locked: the system gives the lock back however the process ends, so that a
 * later one can tell what nobody uses any more, whatever numbers processes have. Removed is only
 * what has such a file and no owner; what cannot be judged, and what holds a finished checkpoint,
 * is named.
 */
import { join } from "node:path";
import { quote, SpaceError } from "../errors.ts";
import type { Reporter } from "../report.ts";
import { size } from "../size.ts";
import type { Disk } from "./disk.ts";

/** The file whose lock says that a folder is in use. */
export const OWNER_FILE = ".sluice-owner";

/** The warning that tells of such a folder: of this machine, not of what is being made. */
export const LEFT_BEHIND = "left-behind";

/**
 * Say that a folder is in use, until the result is disposed of or this process ends. A file system
 * that knows no locks has nothing said to it, and what is left there is named only.
 *
 * @throws {SpaceError} the file cannot be made.
 */
export async function own(disk: Disk, folder: string): Promise<AsyncDisposable> {
  const path = join(folder, OWNER_FILE);
  const text = new TextEncoder().encode(JSON.stringify({ host: disk.hostName() ?? null }));
  // Under its name it is never seen without its lock.
  await using writer = await disk.create(`${path}-new`, text.length);
  await writer.write(0, text);
  const lock = await disk.lock(`${path}-new`);
  if (lock === "impossible") {
    await disk.remove(`${path}-new`);
    return { [Symbol.asyncDispose]: () => Promise.resolve() };
  }
  if (!lock) throw new RangeError(`Cannot lock ${quote(`${path}-new`)}: it is locked already.`);
  await disk.rename(`${path}-new`, path);
  return lock;
}

/** Something of worth in a folder that nobody uses. */
export interface Rescued {
  /** Whether the folder is not to be removed. */
  readonly stays: boolean;
  /** Told in place of the removal. */
  readonly message: string;
}

/** What to do with one kind of folders. */
export interface Sweep {
  /** Where they lie. */
  readonly parent: string;
  /** Their names. */
  readonly pattern: RegExp;
  /**
   * Called before a folder without an owner is removed, for what is worth more than the room it
   * takes.
   */
  readonly rescue: (folder: string) => Promise<Rescued | undefined>;
  /** Whether folders of such a name that have no owner file are worth a word. */
  readonly nameStrangers: boolean;
  readonly report: Reporter;
}

/**
 * Remove what processes that were killed have left in a folder, and tell of it.
 *
 * @throws {SpaceError} the folder cannot be listed.
 */
export async function sweep(
  disk: Disk,
  { parent, pattern, rescue, nameStrangers, report }: Sweep,
): Promise<void> {
  const tell = (message: string) => report({ type: "warning", code: LEFT_BEHIND, message });
  const names = (await disk.stat(parent))?.kind === "folder" ? await disk.list(parent) : [];
  for (const name of names.filter((name) => pattern.test(name))) {
    const folder = join(parent, name);
    if ((await disk.lstat(folder))?.kind !== "folder") continue;
    await using claim = await claimOf(disk, folder);
    if (claim.owner === "alive") continue;
    if (claim.owner === "unknown") {
      if (!nameStrangers) continue;
      tell(
        `An earlier run has left ${quote(folder)}, and whether it still goes on cannot be told: ` +
          `remove the folder if it does not.`,
      );
      continue;
    }
    const { stays, message } = await rescue(folder) ?? {
      stays: false,
      message: `Removed ${quote(folder)} (${
        size(await bytesIn(disk, folder))
      }), which a run that was killed had left.`,
    };
    await claim[Symbol.asyncDispose]();
    tell(stays ? message : await removed(disk, folder) ?? message);
  }
}

/** Remove a folder; why it could not be, which is no reason to stop. */
async function removed(disk: Disk, folder: string): Promise<string | undefined> {
  try {
    await disk.remove(folder, { recursive: true });
    return undefined;
  } catch (error) {
    if (error instanceof SpaceError) return error.message;
    throw error;
  }
}

/** Whose a folder is. */
interface Claim extends AsyncDisposable {
  readonly owner: "alive" | "dead" | "unknown";
}

async function claimOf(disk: Disk, folder: string): Promise<Claim> {
  const without = (owner: Claim["owner"]): Claim => ({
    owner,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  });
  const path = join(folder, OWNER_FILE);
  try {
    if ((await disk.lstat(path))?.kind !== "file") return without("unknown");
    const host = await hostOf(disk, path);
    const here = disk.hostName();
    if (host !== undefined && here !== undefined && host !== here) return without("unknown");
    const lock = await disk.lock(path);
    if (lock === "impossible") return without("unknown");
    return lock ? { owner: "dead", ...lock } : without("alive");
  } catch (error) {
    // Another user's.
    if (error instanceof SpaceError) return without("unknown");
    throw error;
  }
}

/** The machine that an owner file names. */
async function hostOf(disk: Disk, path: string): Promise<string | undefined> {
  await using reader = await disk.open(path);
  const text = new TextDecoder().decode(await reader.read(0, Math.min(reader.size, 1000)));
  return /"host":"([^"]*)"/.exec(text)?.[1];
}

/** Bytes of all files in a folder. */
async function bytesIn(disk: Disk, folder: string): Promise<number> {
  let bytes = 0;
  for (const name of await disk.list(folder)) {
    const found = await disk.lstat(join(folder, name));
    bytes += found?.kind === "folder"
      ? await bytesIn(disk, join(folder, name))
      : found?.kind === "file"
      ? found.size
      : 0;
  }
  return bytes;
}
