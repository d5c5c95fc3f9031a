/**
 * Whose a folder is that is for passing use: it holds a file that its process keeps locked. The
 * system gives the lock back however the process ends, so that a later one can tell what nobody
 * uses any more, whatever numbers processes have. Where there are no locks the file's number of a
 * process must do, on the machine that it names.
 */
import { join } from "node:path";
import { quote, RequestError, SpaceError } from "../errors.ts";
import type { Disk } from "./disk.ts";
import { codeOf } from "./system_faults.ts";

/** The file whose lock says that a folder is in use. */
export const OWNER_FILE = ".sluice-owner";

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
  await using undo = new AsyncDisposableStack();
  const lock = await disk.lock(`${path}-new`);
  if (!lock) {
    throw new RequestError(
      `Cannot use ${quote(folder)}: another run is at it. Wait until that is done.`,
    );
  }
  if (lock !== "impossible") undo.use(lock);
  await disk.rename(`${path}-new`, path);
  return undo.move();
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
    if (lock !== "impossible") return lock ? { owner: "dead", ...lock } : without("alive");
    const known = process === undefined || host === undefined || host !== here
      ? undefined
      : await disk.isAlive(process);
    if (known !== false) return without(known ? "alive" : "unknown");
    const claimed = await claimByName(disk, path, { folder, process: process! });
    return claimed ? { owner: "dead", ...claimed } : without("alive");
  } catch (error) {
    // Another user's.
    if (error instanceof SpaceError) return without("unknown");
    throw error;
  }
}

/**
 * The same, for whoever wants to go on with it: one that only looks whose it is has it for a
 * moment.
 *
 * @throws {SpaceError} the system refuses it.
 */
export async function claimSoon(disk: Disk, folder: string): Promise<Claim> {
  for (let look = 1;; look++) {
    const claim = await claimOf(disk, folder);
    if (claim.owner !== "alive" || look === LOOKS.times) return claim;
    await new Promise((resolve) => setTimeout(resolve, LOOKS.apart));
  }
}

/**
 * Claim a folder whose process is dead where there are no locks: its owner file gets another name,
 * which one of those who try can give it, and takes its own back when the claim ends. Undefined
 * where another was faster.
 */
async function claimByName(
  disk: Disk,
  path: string,
  { folder, process }: { readonly folder: string; readonly process: number },
): Promise<AsyncDisposable | undefined> {
  const owner = join(folder, OWNER_FILE);
  const [mine, aside] = ["claim", "dead"].map((what) =>
    `${owner}-${what}-${crypto.randomUUID().slice(0, 8)}`
  ) as [string, string];
  const text = ownerText(disk);
  await using undo = new AsyncDisposableStack();
  {
    await using writer = await disk.create(mine, text.length);
    undo.defer(() => disk.remove(mine));
    await writer.write(0, text);
  }
  try {
    await disk.rename(path, aside);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw error;
  }
  // Another has claimed it since it was looked at.
  if ((await ownerOf(disk, aside)).process !== process) {
    await disk.rename(aside, owner);
    return undefined;
  }
  await disk.rename(mine, owner);
  undo.move();
  let claimed = true;
  return {
    async [Symbol.asyncDispose]() {
      if (claimed) await disk.rename(aside, owner);
      claimed = false;
    },
  };
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
