/**
 * Who is at which unit, in a folder that machines share. A lease is a folder, `00007.2` for the
 * third one of unit 7. It appears with what it holds, by a rename that fails where another has made
 * it, so that of several that take it at once one has it. It is renewed inside, so that one that
 * ran out and was renewed too late takes nothing from the next.
 */
import { dirname, join } from "node:path";
import { SpaceError } from "../errors.ts";
import type { Disk } from "../io/disk.ts";
import { codeOf } from "../io/system_faults.ts";
import { putWhole, readWhole } from "../io/whole_files.ts";
import { parseObject } from "../json.ts";

/** Seconds after which the lease of a worker that does not renew it is anyone's. */
export const LEASE_SECONDS = 60;

/** In a lease: who holds it, and until when. */
export const HOLDER_FILE = "holder.json";

/**
 * Take something for some time, renewed until the lease is disposed of; undefined where another
 * process has it.
 *
 * @param folder Where the leases are.
 * @param name Of what is taken; without a dot.
 * @throws {SpaceError} the system refuses it.
 */
export async function takeLease(
  disk: Disk,
  folder: string,
  name: string,
): Promise<AsyncDisposable | undefined> {
  const before = await leasesOf(disk, folder, name);
  const last = before.at(-1);
  if (last) {
    const holder = await last.holder();
    // One that was given back in between was its holder's to the end: what it was at is done.
    if (holder === undefined || await goesOn(disk, holder)) return undefined;
  }
  const place = join(folder, `${name}.${(last?.number ?? -1) + 1}`);
  const renew = () => putWhole(disk, join(place, HOLDER_FILE), holderText(disk));
  if (!await appear(disk, place)) return undefined;
  for (const { path } of before) await vanish(disk, path);
  let renewing = Promise.resolve();
  const timer = setInterval(
    () =>
      renewing = renewing.then(renew).catch((error) => {
        clearInterval(timer);
        // A lease that cannot be renewed ends, which costs work and no more.
        if (!(error instanceof SpaceError)) throw error;
      }),
    LEASE_SECONDS * 1000 / 3,
  );
  return {
    [Symbol.asyncDispose]: async () => {
      clearInterval(timer);
      await renewing;
      await vanish(disk, place);
    },
  };
}

/**
 * Who holds leases, by the name of what was taken: the machine and the number of the process.
 *
 * @param folder Where the leases are.
 * @throws {SpaceError} the system refuses it.
 */
export async function leaseHolders(disk: Disk, folder: string): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (const { name, holder } of await leasesOf(disk, folder)) {
    const text = await holder();
    if (text === undefined || !await goesOn(disk, text)) continue;
    const { host, process } = parseObject(text)!;
    found.set(name, `${typeof host === "string" ? host : "a machine"}, process ${process}`);
  }
  return found;
}

/** Whether some process has something, as {@linkcode takeLease} takes it. */
export async function isLeased(disk: Disk, folder: string, name: string): Promise<boolean> {
  const holder = await (await leasesOf(disk, folder, name)).at(-1)?.holder();
  return holder !== undefined && await goesOn(disk, holder);
}

/** The leases of a name, or all, in order; each with what its holder file says, if it is there. */
async function leasesOf(disk: Disk, folder: string, wanted?: string) {
  const found = (await disk.list(folder)).flatMap((lease) => {
    const [, name, number] = /^([^.]+)\.(\d+)$/.exec(lease) ?? [];
    if (name === undefined || wanted !== undefined && name !== wanted) return [];
    const path = join(folder, lease);
    const holder = () => readWhole(disk, join(path, HOLDER_FILE));
    return [{ name, number: Number(number), path, holder }];
  });
  return found.sort((a, b) => a.number - b.number);
}

/** What the system says of a rename onto a folder that another process has made. */
const TAKEN: ReadonlySet<unknown> = new Set(["ENOTEMPTY", "EEXIST"]);

/** Make a lease, whole from the beginning; `false` where another has it, or had it just now. */
async function appear(disk: Disk, place: string): Promise<boolean> {
  const own = beside(place);
  await disk.makeFolder(own);
  await putWhole(disk, join(own, HOLDER_FILE), holderText(disk));
  try {
    await disk.rename(own, place);
  } catch (error) {
    await disk.remove(own, { recursive: true });
    if (TAKEN.has(codeOf(error))) return false;
    // Systems that name it otherwise.
    if (error instanceof SpaceError && await disk.lstat(place)) return false;
    throw error;
  }
  await disk.syncFolder(dirname(place));
  return true;
}

/**
 * Take a lease away, at once: while its file went before its folder, another could appear in the
 * empty folder.
 */
async function vanish(disk: Disk, place: string): Promise<void> {
  const aside = beside(place);
  try {
    await disk.rename(place, aside);
  } catch (error) {
    // It had run out, and whoever has taken the next has removed it.
    if (codeOf(error) === "ENOENT") return;
    throw error;
  }
  await disk.remove(aside, { recursive: true });
}

/** A name for a lease that is not there yet, or no more. */
function beside(place: string): string {
  return `${place}-${crypto.randomUUID().slice(0, 8)}`;
}

function holderText(disk: Disk): string {
  const until = Date.now() + LEASE_SECONDS * 1000;
  return JSON.stringify({ host: disk.hostName() ?? null, process: Deno.pid, until });
}

/** Whether who holds a lease is at it still. */
async function goesOn(disk: Disk, text: string): Promise<boolean> {
  const held = parseObject(text);
  if (typeof held?.until !== "number" || held.until < Date.now()) return false;
  const here = disk.hostName();
  const known = here !== undefined && held.host === here && typeof held.process === "number"
    ? await disk.isAlive(held.process)
    : undefined;
  return known ?? true;
}
