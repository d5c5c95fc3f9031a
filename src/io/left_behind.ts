/**
 * What is left of folders for passing use by a process that was killed. Removed is only what had an
 * owner (owner.ts) and has none any more; what cannot be judged, and what holds a finished
 * checkpoint, is named.
 */
import { join } from "node:path";
import { quote, SpaceError } from "../errors.ts";
import type { Reporter } from "../report.ts";
import { size } from "../size.ts";
import type { Disk } from "./disk.ts";
import { claimOf, OWNER_FILE } from "./owner.ts";

/** The warning that tells of such a folder: of this machine, not of what is being made. */
export const LEFT_BEHIND = "left-behind";

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
