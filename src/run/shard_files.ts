/**
 * What workers exchange that calibrate one model together, each on shards of the windows: hidden
 * states of each shard before a block, and what was gathered of it at the block's stops. A file
 * appears whole, under its name, with its SHA-256 behind its bytes; a block's are removed when the
 * next block's states are all there:
 *
 *   calibration/00003/before.1  calibration/00003/0.1  calibration/00003/0-moved.1
 */
import { dirname, join } from "node:path";
import type { CarryReader, CarryWriter } from "../carry.ts";
import { quote, RequestError } from "../errors.ts";
import { type Disk, makeFolders } from "../io/disk.ts";
import { HASH_BYTES, readHashed, writeHashed } from "../io/hashed_files.ts";
import { codeOf } from "../io/system_faults.ts";

/** See the head of this file. */
export class ShardFiles {
  readonly #disk: Disk;
  readonly #folder: string;

  /** @param folder Of the job. */
  constructor(disk: Disk, folder: string) {
    this.#disk = disk;
    this.#folder = join(folder, "calibration");
  }

  /** Whether a shard's bytes are there. */
  async has(block: number, what: string, shard: number): Promise<boolean> {
    return (await this.#disk.lstat(this.#path(block, what, shard)))?.kind === "file";
  }

  /** Write a shard's bytes, unless they are there: whoever makes them makes the same. */
  async put(
    block: number,
    { what, shard, save }: {
      readonly what: string;
      readonly shard: number;
      readonly save: (to: CarryWriter) => Promise<void>;
    },
  ): Promise<void> {
    if (await this.has(block, what, shard)) return;
    const path = this.#path(block, what, shard);
    await using made = new AsyncDisposableStack();
    await makeFolders(this.#disk, dirname(path), made);
    made.move();
    await writeHashed(this.#disk, `${path}-${crypto.randomUUID().slice(0, 8)}`, {
      fill: save,
      nameOf: () => path,
      trailing: true,
    });
  }

  /**
   * Read a shard's bytes, all of them.
   *
   * @throws {RequestError} they are not those that were written.
   */
  async take(
    block: number,
    { what, shard, restore }: {
      readonly what: string;
      readonly shard: number;
      readonly restore: (from: CarryReader) => Promise<void>;
    },
  ): Promise<void> {
    const path = this.#path(block, what, shard);
    await using reader = await this.#disk.open(path);
    const bytes = reader.size - HASH_BYTES;
    const refuse = (): never => {
      throw new RequestError(
        `Cannot go on with ${quote(path)}: its bytes are not those that were written. Remove it, ` +
          "and have it made again.",
      );
    };
    const sha256 = await readHashed(reader, { bytes, take: restore, refuse });
    if ((await reader.read(bytes, reader.size)).toHex() !== sha256) refuse();
  }

  /** Blocks of which something is there, in order. */
  async blocks(): Promise<number[]> {
    if (!(await this.#disk.lstat(this.#folder))) return [];
    const names = await this.#disk.list(this.#folder);
    return names.filter((name) => /^\d+$/.test(name)).map(Number).sort((a, b) => a - b);
  }

  /** Remove a block's. */
  async remove(block: number): Promise<void> {
    await this.#removeFolder(join(this.#folder, nameOf(block)));
  }

  /** Remove all. */
  async removeAll(): Promise<void> {
    await this.#removeFolder(this.#folder);
  }

  /** Of several at once, one does it: a folder that was given another name is nobody else's. */
  async #removeFolder(folder: string): Promise<void> {
    const aside = `${folder}-${crypto.randomUUID().slice(0, 8)}`;
    try {
      await this.#disk.rename(folder, aside);
    } catch (error) {
      if (codeOf(error) === "ENOENT") return;
      throw error;
    }
    await this.#disk.remove(aside, { recursive: true });
  }

  #path(block: number, what: string, shard: number): string {
    return join(this.#folder, nameOf(block), `${what}.${shard}`);
  }
}

function nameOf(block: number): string {
  return String(block).padStart(5, "0");
}
