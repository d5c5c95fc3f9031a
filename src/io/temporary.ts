/**
 * Folders for passing use in the system's temporary folder: staged shards, hidden states, a
 * checkpoint on its way to the Hub.
 */
import { dirname, join } from "node:path";
import { quote } from "../errors.ts";
import { RECORD_FILE } from "./names.ts";
import type { Reporter } from "../report.ts";
import { type Disk, disk as machine, makeTemporary } from "./disk.ts";
import { removeOwned, sweep } from "./left_behind.ts";
import { own, OWNER_FILE } from "./owner.ts";

const PREFIX = "sluice-";

/** A folder for passing use; removed when disposed of. */
export interface TemporaryFolder extends AsyncDisposable {
  readonly path: string;
  /** From now on it stays. */
  keep(): Promise<void>;
}

/**
 * Make a folder for passing use.
 *
 * @throws {SpaceError} it cannot be made.
 */
export async function openTemporary(disk: Disk = machine): Promise<TemporaryFolder> {
  const path = await makeTemporary(PREFIX);
  await using undo = new AsyncDisposableStack();
  undo.defer(() => removeOwned(disk, path));
  await disk.claim(dirname(path));
  const owner = undo.use(await own(disk, path));
  const cleanup = undo.move();
  let kept = false;
  return {
    path,
    async keep() {
      kept = true;
      await owner[Symbol.asyncDispose]();
      await disk.remove(join(path, OWNER_FILE));
    },
    async [Symbol.asyncDispose]() {
      if (!kept) await cleanup.disposeAsync();
    },
  };
}

/**
 * Remove such folders of processes that were killed, but for finished checkpoints, which are named.
 *
 * @param parent The system's temporary folder; left alone where Deno does not allow it.
 * @throws {SpaceError} a folder cannot be removed.
 */
export async function sweepTemporary(
  parent: string,
  report: Reporter,
  disk: Disk = machine,
): Promise<void> {
  if (!await disk.mayRead(parent) || !await disk.mayWrite(parent)) return;
  await sweep(disk, {
    parent,
    pattern: /^sluice-[0-9a-z]+$/,
    // Others may give their folders such names.
    nameStrangers: false,
    report,
    async rescue(folder) {
      for (const name of await disk.list(folder)) {
        const inner = join(folder, name);
        if (!(await disk.stat(join(inner, RECORD_FILE)))) continue;
        return {
          stays: true,
          message: `A run was killed before it could publish its checkpoint, which is in ${
            quote(inner)
          }: publish it, or remove it.`,
        };
      }
      return undefined;
    },
  });
}
