/** Small files that others read while they are written anew: each reader sees one text, whole. */
import { dirname } from "node:path";
import type { Disk } from "./disk.ts";
import { codeOf } from "./system_faults.ts";

/**
 * Write a file under a name of its own, flush it, and give it its name.
 *
 * @throws {SpaceError} the system refuses it.
 */
export async function putWhole(disk: Disk, path: string, text: string): Promise<void> {
  const temporary = `${path}-${crypto.randomUUID().slice(0, 8)}`;
  const bytes = new TextEncoder().encode(text);
  {
    await using writer = await disk.create(temporary, bytes.length, { lasting: true });
    await writer.write(0, bytes);
    await writer.sync();
  }
  await disk.rename(temporary, path);
  await disk.syncFolder(dirname(path));
}

/**
 * The text of a file; undefined where there is none.
 *
 * @throws {SpaceError} the system refuses it.
 */
export async function readWhole(disk: Disk, path: string): Promise<string | undefined> {
  if ((await disk.lstat(path))?.kind !== "file") return undefined;
  try {
    await using reader = await disk.open(path, { growing: true });
    return new TextDecoder().decode(await reader.read(0, reader.size));
  } catch (error) {
    // Removed in between.
    if (codeOf(error) === "ENOENT") return undefined;
    throw error;
  }
}
