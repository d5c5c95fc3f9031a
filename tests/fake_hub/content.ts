/**
 * What files of the fake Hub hold: bytes, text, files of this machine, or anything that can be made
 * by range and need not exist.
 */
import { createHash } from "node:crypto";

/** Bytes that are hashed or sent at a time. */
export const BLOCK_BYTES = 1 << 20;

/** A file that is made when it is asked for. It is not kept: 20 GB cost nothing. */
export interface SyntheticFile {
  readonly size: number;
  /**
   * What the Hub says the hash is; computed from the bytes when absent, in the background. A wrong
   * one is a fault a test may want.
   */
  readonly sha256?: string;
  /**
   * Bytes `[begin, end)`; the same for the same range, always. Who gets them does not change them.
   */
  read(begin: number, end: number): Uint8Array<ArrayBuffer>;
}

/** A file as a test gives it: text, bytes, a file of this machine, or a synthetic one. */
export type FileInput =
  | string
  | Uint8Array<ArrayBuffer>
  | { readonly path: string }
  | SyntheticFile;

/** A file of the fake Hub. */
export interface Content {
  readonly size: number;
  /** Differs when the bytes differ; known at once, which a hash of them is not. */
  readonly fingerprint: string;
  /** SHA-256 in hexadecimal; computed once. */
  sha256(): Promise<string>;
  /** Bytes `[begin, end)`. */
  read(begin: number, end: number): Promise<Uint8Array<ArrayBuffer>> | Uint8Array<ArrayBuffer>;
}

/** A file of the fake Hub from what a test gave. `stop` ends the hashing of it. */
export function contentFrom(input: FileInput, stop: AbortSignal): Content {
  if (typeof input === "string") return bytesContent(new TextEncoder().encode(input));
  if (input instanceof Uint8Array) return bytesContent(input);
  if ("path" in input) return fileContent(input.path, { stop });
  return syntheticContent(input, stop);
}

function bytesContent(bytes: Uint8Array<ArrayBuffer>): Content {
  const sha256 = hexHash("sha256", bytes);
  return {
    size: bytes.length,
    fingerprint: sha256,
    sha256: () => Promise.resolve(sha256),
    read: (begin, end) => bytes.subarray(begin, end),
  };
}

/** A file of this machine, read when asked for. `sha256` is for those who know it already. */
export function fileContent(
  path: string,
  { sha256, stop }: { readonly sha256?: string; readonly stop: AbortSignal },
): Content {
  const { size, mtime } = Deno.statSync(path);
  async function read(begin: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
    using file = await Deno.open(path);
    await file.seek(begin, Deno.SeekMode.Start);
    const bytes = new Uint8Array(end - begin);
    for (let filled = 0; filled < bytes.length;) {
      const got = await file.read(bytes.subarray(filled));
      if (got === null) throw new Error(`"${path}" ends at byte ${begin + filled} of ${size}.`);
      filled += got;
    }
    return bytes;
  }
  return {
    size,
    fingerprint: sha256 ?? `${path} ${size} ${mtime?.getTime()}`,
    sha256: hashOnce({ size, read }, sha256, stop),
    read,
  };
}

/** Hashes of synthetic files, which tests give to one fake after another. */
const HASHES: WeakMap<SyntheticFile, string> = new WeakMap();

function syntheticContent(file: SyntheticFile, stop: AbortSignal): Content {
  const sample = file.read(0, Math.min(file.size, 4096));
  const hash = hashOnce(file, file.sha256 ?? HASHES.get(file), stop);
  return {
    size: file.size,
    fingerprint: `${file.size} ${file.sha256 ?? ""} ${hexHash("sha256", sample)}`,
    async sha256() {
      const found = await hash();
      HASHES.set(file, found);
      return found;
    },
    read: (begin, end) => file.read(begin, end),
  };
}

function hashOnce(
  file: Pick<Content, "size" | "read">,
  known: string | undefined,
  stop: AbortSignal,
): () => Promise<string> {
  let hash = known === undefined ? undefined : Promise.resolve(known);
  return () => hash ??= hashByStreaming(file, stop);
}

/** Reads and hashes a block at a time; others have their turn in between. */
async function hashByStreaming(
  { size, read }: Pick<Content, "size" | "read">,
  stop: AbortSignal,
): Promise<string> {
  const hash = createHash("sha256");
  for (let begin = 0; begin < size; begin += BLOCK_BYTES) {
    hash.update(await read(begin, Math.min(size, begin + BLOCK_BYTES)));
    if (begin % (8 * BLOCK_BYTES) === 0) await new Promise((resume) => setImmediate(resume));
    stop.throwIfAborted();
  }
  return hash.digest("hex");
}

/** The hash of some bytes in hexadecimal. */
export function hexHash(
  algorithm: "sha1" | "sha256" | "md5",
  ...parts: (Uint8Array | string)[]
): string {
  const hash = createHash(algorithm);
  for (const part of parts) hash.update(part);
  return hash.digest("hex");
}

/** All bytes of a file. */
export async function readAll(content: Content): Promise<Uint8Array<ArrayBuffer>> {
  return await content.read(0, content.size);
}
