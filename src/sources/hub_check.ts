/**
 * Hashing a file as it streams by, and parts of it that were given out before the whole could be
 * hashed.
 */
import { createHash } from "node:crypto";
import { CheckpointError, quote } from "../errors.ts";
import { createFileHash, type HubClient, type HubFile, type Span } from "../hub/client.ts";

/**
 * Bytes of a file that were read by range and given out; their digest once they have arrived,
 * undefined if they never did.
 */
export interface Handed extends Span {
  readonly digest: Promise<string | undefined>;
}

/** SHA-256 in hexadecimal. */
export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** Follows a file from its first byte to its last. */
export class StreamCheck {
  /** What was given out before, and is compared. */
  readonly handed: readonly Handed[];
  readonly #file: HubFile;
  readonly #client: HubClient;
  readonly #whole: ReturnType<typeof createFileHash>;
  readonly #parts: {
    readonly handed: Handed;
    readonly hash: ReturnType<typeof createHash>;
  }[];
  #at = 0;

  constructor(
    file: HubFile,
    { client, handed }: { readonly client: HubClient; readonly handed: readonly Handed[] },
  ) {
    this.handed = handed;
    this.#file = file;
    this.#client = client;
    this.#whole = createFileHash(file);
    this.#parts = handed.map((handed) => ({ handed, hash: createHash("sha256") }));
  }

  /** Pass a stream of the file on, looking at every chunk. */
  async *follow(
    chunks: AsyncIterable<Uint8Array<ArrayBuffer>>,
  ): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
    for await (const chunk of chunks) {
      this.update(chunk);
      yield chunk;
    }
  }

  /** The next bytes of the file. */
  update(chunk: Uint8Array): void {
    this.#whole.update(chunk);
    const [from, to] = [this.#at, this.#at + chunk.length];
    for (const { handed: { begin, end }, hash } of this.#parts) {
      if (begin >= to || end <= from) continue;
      hash.update(chunk.subarray(Math.max(0, begin - from), Math.min(chunk.length, end - from)));
    }
    this.#at = to;
  }

  /**
   * After the last byte.
   *
   * @throws {HubError} of kind `damaged`: the file is not what the repository promises.
   * @throws {CheckpointError} the file is, but bytes of it that were given out before were others.
   */
  async finish(): Promise<void> {
    const { path, repo, hash: { hex } } = this.#file;
    const found = this.#whole.digest("hex");
    if (found !== hex) throw this.#client.damaged(this.#file, found);
    for (const { handed: { begin, end, digest }, hash } of this.#parts) {
      const given = await digest;
      if (given === undefined || given === hash.digest("hex")) continue;
      throw new CheckpointError(
        `Cannot use ${quote(path)} of ${quote(repo.id)}: bytes ${begin} to ${end} came otherwise ` +
          `when they were read alone than in the whole file, whose hash is right. They were ` +
          `damaged on their way: run the same command again.`,
        { file: path, offset: begin },
      );
    }
  }
}
