/** Which folders an output may have its name of, and what it may replace. */
import { join, parse, sep } from "node:path";
import { quote, RequestError } from "../errors.ts";
import type { Disk } from "../io/disk.ts";
import { isWeights, nameKey, PARTIAL } from "../io/names.ts";

/**
 * Refuse an output path that leads through a link, or where there is something that may not be
 * replaced.
 *
 * @throws {RequestError} the sentence says which.
 */
export async function checkTarget(
  disk: Disk,
  { path, target, overwrite }: { path: string; target: string; overwrite: boolean },
): Promise<void> {
  const refuse = (found: string): never => {
    throw new RequestError(`Cannot write to ${quote(path)}: ${found}`);
  };
  const { root } = parse(target);
  const parts = target.slice(root.length).split(sep).filter((part) => part !== "");
  if (parts.length === 0) refuse("it is the root of the disk. Give a new folder.");
  // Other runs would take it for what a stopped one has left.
  const partial = parts.find((part) => PARTIAL.test(nameKey(part)));
  if (partial !== undefined) {
    refuse(
      `${quote(partial)} is where a run leaves its files until it is done. Give another name.`,
    );
  }
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
  if (!names.some(isWeights)) {
    refuse(`the folder does not look like a checkpoint, ${advice}`);
  }
  for (const name of names) {
    const kind = (await disk.lstat(join(target, name)))?.kind;
    if (kind === "folder" && name !== "additional_chat_templates" || name.startsWith(".")) {
      refuse(`the folder holds ${quote(name)}, which no checkpoint of Sluice does, ${advice}`);
    }
  }
}
