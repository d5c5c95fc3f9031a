/** Hashes of bytes at hand, at once: of pieces that are written or given out one after another. */
import { createHash } from "node:crypto";

/** SHA-256 in hexadecimal. */
export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
