/**
 * The files of a folder that is to be published: all of them, in order of name, but for those whose
 * names begin with a dot. Refused: links that lead to other files outside, names that the Hub or
 * another system could not have.
 */
import { quote, RequestError } from "../errors.ts";
import type { Disk } from "../io/disk.ts";
import { checkRelativePath, nameKey } from "../io/names.ts";
import { checkLink } from "../sources/companions.ts";

/** Folders in folders that are looked into. */
const DEPTH = 8;

/** What is in a folder. */
export interface FolderFiles {
  readonly files: readonly { readonly path: string; readonly size: number }[];
  /** Left out. */
  readonly skipped: readonly string[];
}

/**
 * List a folder.
 *
 * @throws {RequestError} it is not there, is empty, or holds a name that cannot be published.
 * @throws {CheckpointError} a link leads to a file of another name outside.
 */
export async function listFolder(disk: Disk, folder: string): Promise<FolderFiles> {
  if ((await disk.stat(folder))?.kind !== "folder") {
    throw new RequestError(
      `Cannot publish ${quote(folder)}: there is no such folder. Give the output of quantize.`,
    );
  }
  const files: { path: string; size: number }[] = [];
  const skipped: string[] = [];
  const names = new Set<string>();
  const walk = async (inner: string, depth: number): Promise<void> => {
    for (const name of await disk.list(inner === "" ? folder : `${folder}/${inner}`)) {
      const path = inner === "" ? name : `${inner}/${name}`;
      if (name.startsWith(".")) {
        skipped.push(path);
        continue;
      }
      const reason = names.has(nameKey(path)) ? "which is there twice" : checkRelativePath(path);
      if (reason !== true) {
        throw new RequestError(`Cannot publish ${quote(path)}, ${reason}. Give it another name.`);
      }
      names.add(nameKey(path));
      const place = `${folder}/${path}`;
      await checkLink(disk, folder, path);
      const found = await disk.stat(place);
      // A folder that is a link leads out of this one, or around in it.
      const real = (await disk.lstat(place))?.kind === "folder";
      if (found?.kind === "file") files.push({ path, size: found.size });
      else if (real && depth < DEPTH) await walk(path, depth + 1);
      else {
        throw new RequestError(
          `Cannot publish ${quote(path)}: it is neither a file nor a folder of them. Take it out.`,
        );
      }
    }
  };
  await walk("", 0);
  if (files.length === 0) {
    throw new RequestError(`Cannot publish ${quote(folder)}: there is nothing in it.`);
  }
  return { files: files.sort((a, b) => a.path < b.path ? -1 : 1), skipped };
}
