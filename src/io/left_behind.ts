/**
 * Folders for passing use, and what is left of them by a process that was killed. Each holds a file
 * that its process keeps locked: the system gives the lock back however the process ends, so that a
 * later one can tell what nobody uses any more, whatever numbers processes have. Removed is only
 * what has such a file and no owner; what cannot be judged, and what holds a finished checkpoint,
 * is named.
 */
import { join } from "node:path";
import { quote, RequestError, SpaceError } from "../errors.ts";
import type { Reporter } from "../report.ts";
import { size } from "../size.ts";
import type { Disk } from "./disk.ts";

/** The file whose lock says that a folder is in use. */
export const OWNER_FILE = ".sluice-owner";

/** The warning that tells of such a folder: of this machine, not of what is being made. */
export const LEFT_BEHIND = "left-behind";

/** What an owner file says: which process of which machine. */
function ownerText(disk: Disk): Uint8Array<ArrayBuffer> {
  const owner = { host: disk.hostName() ?? null, process: Deno.pid };
  return new TextEncoder().encode(JSON.stringify(owner));
}

/**
 * Say that a folder is in use, until the result is disposed of or this process ends. On a file
 * system that knows no locks only the file says it, by the number of the process.
 *
 * @throws {SpaceError} the file cannot be made.
 * @throws {RequestError} another process looks whether it is in use.
 */
export async function own(disk: Disk, folder: string): Promise<AsyncDisposable> {
  const path = join(folder, OWNER_FILE);
  const text = ownerText(disk);
  // Under its name it is never seen without its lock.
  await using writer = await disk.create(`${path}-new`, text.length);
  await writer.write(0, text);
  const lock = await disk.lock(`${path}-new`);
  if (lock === "impossible") {
    await disk.rename(`${path}-new`, path);
    return { [Symbol.asyncDispose]: () => Promise.resolve() };
  }
  if (!lock) {
    throw new RequestError(
      `Cannot use ${quote(folder)}: another run is at it. Wait until that is done.`,
    );
  }
  await disk.rename(`${path}-new`, path);
  return lock;
}

/** How often, and after how many milliseconds, it is looked again whether a folder is owned. */
const LOOKS = { times: 20, apart: 25 };

/**
 * Wait a moment for whoever has just made a folder to say that it is in use, which takes less.
 *
 * @param done Told true, there is nothing to wait for.
 */
export async function comesToOwn(
  disk: Disk,
  folder: string,
  done: () => Promise<boolean>,
): Promise<void> {
  for (let look = 0; look < LOOKS.times; look++) {
    if (await done() || await disk.lstat(join(folder, OWNER_FILE))) return;
    await new Promise((resolve) => setTimeout(resolve, LOOKS.apart));
  }
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
  /** Folders of such a name that are left to others. */
  readonly skip?: (folder: string) => boolean;
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
  { parent, pattern, rescue, skip = () => false, nameStrangers, report }: Sweep,
): Promise<void> {
  const tell = (message: string) => report({ type: "warning", code: LEFT_BEHIND, message });
  const names = (await disk.stat(parent))?.kind === "folder" ? await disk.list(parent) : [];
  for (const name of names.filter((name) => pattern.test(name))) {
    const folder = join(parent, name);
    if (skip(folder) || (await disk.lstat(folder))?.kind !== "folder") continue;
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
    const found = await rescue(folder);
    if (found?.stays) {
      tell(found.message);
      continue;
    }
    await claim[Symbol.asyncDispose]();
    const message = await discard(disk, folder);
    tell(found?.message ?? message);
  }
}

/**
 * Remove a folder that a killed run had left, and say so; or why it could not be removed.
 *
 * @param known What it was called.
 */
export async function discard(disk: Disk, folder: string, known = folder): Promise<string> {
  const bytes = await bytesIn(disk, folder);
  try {
    await removeOwned(disk, folder);
  } catch (error) {
    // No reason to stop.
    if (error instanceof SpaceError) return error.message;
    throw error;
  }
  return `Removed ${quote(known)} (${size(bytes)}), which a run that was killed had left.`;
}

/**
 * Remove a folder that was owned: what says whose it is goes last, so that a process that is killed
 * meanwhile leaves nothing that cannot be judged.
 *
 * @throws {SpaceError} the system refuses it.
 */
export async function removeOwned(disk: Disk, folder: string): Promise<void> {
  for (const name of await disk.list(folder)) {
    if (name !== OWNER_FILE) await disk.remove(join(folder, name), { recursive: true });
  }
  await disk.remove(folder, { recursive: true });
}

/** Whose a folder is; one whose owner is dead is the caller's until the claim is disposed of. */
export interface Claim extends AsyncDisposable {
  readonly owner: "alive" | "dead" | "unknown";
}

/** Write into a folder that was claimed that this process owns it from now on. */
export async function takeOver(disk: Disk, folder: string): Promise<void> {
  const text = ownerText(disk);
  await using writer = await disk.reopen(join(folder, OWNER_FILE), text.length);
  await writer.write(0, text);
}

/**
 * See whose a folder is, and claim it where its owner is dead.
 *
 * @throws {SpaceError} the system refuses it.
 */
export async function claimOf(disk: Disk, folder: string): Promise<Claim> {
  const without = (owner: Claim["owner"]): Claim => ({
    owner,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  });
  try {
    let path = join(folder, OWNER_FILE);
    await comesToOwn(disk, folder, async () => await disk.lstat(`${path}-new`) === undefined);
    // Killed before the file had its name.
    if (!(await disk.lstat(path))) path += "-new";
    if ((await disk.lstat(path))?.kind !== "file") return without("unknown");
    const { host, process } = await ownerOf(disk, path);
    const here = disk.hostName();
    if (host !== undefined && here !== undefined && host !== here) return without("unknown");
    const lock = await disk.lock(path);
    if (lock === "impossible") {
      const known = process === undefined || host === undefined || host !== here
        ? undefined
        : await disk.isAlive(process);
      return without(known === undefined ? "unknown" : known ? "alive" : "dead");
    }
    return lock ? { owner: "dead", ...lock } : without("alive");
  } catch (error) {
    // Another user's.
    if (error instanceof SpaceError) return without("unknown");
    throw error;
  }
}

/** The machine and the process that an owner file names. */
async function ownerOf(
  disk: Disk,
  path: string,
): Promise<{ readonly host: string | undefined; readonly process: number | undefined }> {
  await using reader = await disk.open(path, { growing: true });
  const text = new TextDecoder().decode(await reader.read(0, Math.min(reader.size, 1000)));
  const [, process] = /"process":(\d+)/.exec(text) ?? [];
  return {
    host: /"host":"([^"]*)"/.exec(text)?.[1],
    process: process === undefined ? undefined : Number(process),
  };
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
