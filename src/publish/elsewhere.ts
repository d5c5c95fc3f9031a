/**
 * A folder whose weights are on the Hub alone: they were sent while the checkpoint was made, and
 * their copies here were removed to make room. A file of the folder says which they are, so that
 * the commit that names them can be made from there; it is not published itself.
 */
import { quote, RequestError } from "../errors.ts";
import type { Disk } from "../io/disk.ts";
import { checkRelativePath } from "../io/names.ts";
import { isObject, parseObject } from "../json.ts";
import type { LargeObject } from "./lfs_batch.ts";

/** The file's name; those that begin with a dot are not published. */
export const ELSEWHERE_FILE = ".sluice-uploaded.json";

/** Weights that are on the Hub alone. */
export interface Elsewhere {
  /** The repository's address. */
  readonly to: string;
  readonly files: readonly (LargeObject & { readonly path: string })[];
}

/** The text of the file. */
export function elsewhereText({ to, files }: Elsewhere): string {
  const listed = files.map(({ path, size, oid }) => ({ path, size, sha256: oid }));
  return `${JSON.stringify({ to, files: listed }, null, 2)}\n`;
}

/**
 * What a folder says of weights that are on the Hub alone; undefined where all of it is here.
 *
 * @throws {RequestError} the file is damaged.
 */
export async function readElsewhere(disk: Disk, folder: string): Promise<Elsewhere | undefined> {
  const path = `${folder}/${ELSEWHERE_FILE}`;
  if ((await disk.lstat(path))?.kind !== "file") return undefined;
  await using reader = await disk.open(path);
  const { to, files } = parseObject(
    new TextDecoder().decode(await reader.read(0, reader.size)),
  ) ?? {};
  const found = (Array.isArray(files) ? files : []).map(readFile);
  if (typeof to !== "string" || found.length === 0 || found.includes(undefined)) {
    throw new RequestError(
      `Cannot publish ${quote(folder)}: ${quote(path)} is damaged, which says what weights are ` +
        "on the Hub. Make the checkpoint again.",
    );
  }
  return { to, files: found.filter((file) => file !== undefined) };
}

function readFile(file: unknown): Elsewhere["files"][number] | undefined {
  const { path, size, sha256: oid } = isObject(file) ? file : {};
  const good = typeof path === "string" && checkRelativePath(path) === true &&
    typeof size === "number" && Number.isSafeInteger(size) && size >= 0 &&
    typeof oid === "string" && /^[0-9a-f]{64}$/.test(oid);
  return good ? { path, size, oid } : undefined;
}
