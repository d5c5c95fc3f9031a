/**
 * Hashing a file as it streams by, and parts of it that were given out before the whole could be
 * hashed.
 */
import { HubError, quote } from "../errors.ts";
import type { HubClient, HubFile, Span } from "../hub/client.ts";
import type { Hashing, HashThread } from "./hash_thread.ts";

/**
 * Bytes of a file that were read by range and given out; their digest once they have arrived,
 * undefined if they never did.
 */
export interface Handed extends Span {
  readonly digest: Promise<string | undefined>;
  /** The same, once it is known. */
  arrived?: string | undefined;
}

/** Follows a file from its first byte to its last. */
export class StreamCheck {
  /** What was given out before, and is compared. */
  readonly handed: readonly Handed[];
  readonly #file: HubFile;
  readonly #client: HubClient;
  readonly #hashing: Hashing;

  constructor(
    file: HubFile,
    { client, hashes, handed }: {
      readonly client: HubClient;
      readonly hashes: HashThread;
      readonly handed: readonly Handed[];
    },
  ) {
    this.handed = handed;
    this.#file = file;
    this.#client = client;
    this.#hashing = hashes.open(file, handed.map(({ begin, end }) => ({ begin, end })));
  }

  /** The next bytes of the file, which go away with their buffer and come back. */
  async update(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
    return await this.#hashing.update(bytes);
  }

  /** The file did not come to its end. */
  async giveUp(): Promise<void> {
    await this.#hashing.close();
  }

  /**
   * After the last byte.
   *
   * @throws {HubError} of kind `damaged`: the file is not what the repository promises, or it is,
   * and bytes of it that were given out before were others.
   */
  async finish(): Promise<void> {
    const { path, repo, hash: { hex } } = this.#file;
    const { whole, parts } = await this.#hashing.close();
    if (whole !== hex) throw this.#client.damaged(this.#file, whole);
    for (const [i, { begin, end, digest }] of this.handed.entries()) {
      const given = await digest;
      if (given === undefined || given === parts[i]) continue;
      throw new HubError(
        `Cannot use ${quote(path)} of ${quote(repo.id)}: bytes ${begin} to ${end} came otherwise ` +
          `when they were read alone than in the whole file, whose hash is right. They were ` +
          `damaged on their way: run the same command again.`,
        { kind: "damaged" },
      );
    }
  }
}
