/** The two files of a unit in a repository, and its pieces as they are read from there. */
import type { HubClient, HubFile } from "../hub/client.ts";
import { sha256 } from "../io/digest.ts";
import type { UnitPiece } from "../run/meeting_place.ts";
import { nameOf, otherBytes, type StoredUnit } from "../run/work_job.ts";
import type { Look } from "./repository.ts";

/** Where a file of a unit is. */
export function unitPath(index: number, kind: "bin" | "json"): string {
  return `units/${nameOf(index)}.${kind}`;
}

/** Whether both files of a unit are there. */
export function hasUnit({ files }: Look, index: number): boolean {
  return files.has(unitPath(index, "bin")) && files.has(unitPath(index, "json"));
}

/**
 * The pieces of a unit, one after another, each checked. The file is asked for once, and a piece
 * that was damaged on its way once more.
 *
 * @param file As long as all pieces are.
 * @param path The file, for messages.
 * @throws {RequestError} bytes are not those that were written.
 * @throws {HubError} they cannot be had.
 */
export async function* readPieces(
  client: HubClient,
  file: HubFile,
  { unit: { pieces }, path, signal }: {
    readonly unit: StoredUnit;
    readonly path: string;
    readonly signal: AbortSignal | undefined;
  },
): AsyncGenerator<UnitPiece> {
  const chunks = client.stream(file, { begin: 0, end: file.size, signal });
  try {
    let rest = new Uint8Array();
    let at = 0;
    for (const { file: name, begin, end, sha256: written } of pieces) {
      let bytes: Uint8Array = new Uint8Array(end - begin);
      for (let filled = 0; filled < bytes.length;) {
        if (rest.length === 0) {
          const { value, done } = await chunks.next();
          if (done) throw otherBytes(path);
          rest = value;
        }
        const some = rest.subarray(0, bytes.length - filled);
        bytes.set(some, filled);
        filled += some.length;
        rest = rest.subarray(some.length);
      }
      if (sha256(bytes) !== written) {
        bytes = await client.read(file, { begin: at, end: at + bytes.length, signal });
        if (sha256(bytes) !== written) throw otherBytes(path);
      }
      at += bytes.length;
      yield { file: name, begin, bytes };
    }
  } finally {
    await chunks.return();
  }
}
