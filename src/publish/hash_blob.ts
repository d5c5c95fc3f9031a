/** The SHA-256 of a file that is read a little at a time. */
import { createHash } from "node:crypto";
import type { FileBlob } from "./file_blob.ts";

/**
 * SHA-256 of a file, in hex.
 *
 * @param options.hashed Hears how many bytes are done.
 * @throws {CheckpointError} the file changed.
 */
export async function hashBlob(
  blob: FileBlob,
  { signal, hashed = () => {} }: {
    readonly signal: AbortSignal | undefined;
    readonly hashed?: (done: number) => void;
  },
): Promise<string> {
  const hash = createHash("sha256");
  let done = 0;
  for await (const bytes of blob.stream()) {
    signal?.throwIfAborted();
    hash.update(bytes);
    done += bytes.length;
    hashed(done);
  }
  return hash.digest("hex");
}
