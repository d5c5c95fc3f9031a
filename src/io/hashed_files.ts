/** Files that are written once, whole, and read back, all of them, against their SHA-256. */
import { createHash } from "node:crypto";
import { dirname } from "node:path";
import type { CarryReader, CarryWriter } from "../carry.ts";
import { SpaceError } from "../errors.ts";
import type { Disk, DiskReader } from "./disk.ts";

/** Bytes of a SHA-256. */
export const HASH_BYTES = 32;

/**
 * Write a file, flush it, and give it its name; where that fails nothing is left of it.
 *
 * @param temporary Its name until then, in the same folder.
 * @param options.nameOf Its path, from the SHA-256 in hex of what `fill` gives.
 * @param options.trailing Whether the hash follows in the file.
 * @returns The hash in hex, and how many bytes it is of.
 * @throws {SpaceError} the system refuses it.
 */
export async function writeHashed(
  disk: Disk,
  temporary: string,
  { fill, nameOf, trailing = false }: {
    readonly fill: (to: CarryWriter) => Promise<void>;
    readonly nameOf: (sha256: string) => string;
    readonly trailing?: boolean;
  },
): Promise<{ readonly sha256: string; readonly bytes: number }> {
  await using undo = new AsyncDisposableStack();
  undo.defer(async () => {
    // What is half there takes room that others may need.
    try {
      if (await disk.lstat(temporary)) await disk.remove(temporary);
    } catch (error) {
      // Why it is half there is what matters.
      if (!(error instanceof SpaceError)) throw error;
    }
  });
  const hash = createHash("sha256");
  let bytes = 0;
  let sha256: string;
  {
    await using writer = await disk.create(temporary, 0, { lasting: true });
    await fill({
      async write(piece) {
        const at = bytes;
        bytes += piece.length;
        const writing = writer.write(at, piece);
        // The hash is computed while the disk takes the bytes.
        hash.update(piece);
        await writing;
      },
    });
    sha256 = hash.digest("hex");
    if (trailing) await writer.write(bytes, Uint8Array.fromHex(sha256));
    await writer.sync();
  }
  const path = nameOf(sha256);
  await disk.rename(temporary, path);
  undo.move();
  await disk.syncFolder(dirname(path));
  return { sha256, bytes };
}

/**
 * Read the first bytes of a file, all of them.
 *
 * @param options.bytes How many are to be read.
 * @param options.refuse Called where more or fewer are read.
 * @returns Their SHA-256, in hex.
 */
export async function readHashed(
  reader: DiskReader,
  { bytes, take, refuse }: {
    readonly bytes: number;
    readonly take: (from: CarryReader) => Promise<void>;
    readonly refuse: (found: string) => never;
  },
): Promise<string> {
  const hash = createHash("sha256");
  let at = 0;
  await take({
    read: async (size) => {
      if (at + size > bytes) return refuse("holds less than is to be read of it");
      const part = await reader.read(at, at += size);
      hash.update(part);
      return part;
    },
  });
  if (at !== bytes) refuse("does not have the bytes that were written");
  return hash.digest("hex");
}
