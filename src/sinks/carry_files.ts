/**
 * The carry of a run on disk: files that have their SHA-256 as their name, of which the last is
 * kept. Each is read back against its name.
 */
import { join } from "node:path";
import type { CarryReader, CarryWriter } from "../carry.ts";
import { quote, RequestError } from "../errors.ts";
import type { Disk } from "../io/disk.ts";
import { readHashed, writeHashed } from "../io/hashed_files.ts";
import type { CarryFile } from "../sink.ts";

/** Files of a carry in a folder that is there. */
export class CarryFiles {
  readonly #disk: Disk;
  readonly #folder: string;

  constructor(disk: Disk, folder: string) {
    this.#disk = disk;
    this.#folder = folder;
  }

  /** Write one; it is on the disk when this resolves. */
  async save(fill: (to: CarryWriter) => Promise<void>): Promise<CarryFile> {
    const path = join(this.#folder, "new");
    // A run that was stopped may have left one.
    if (await this.#disk.lstat(path)) await this.#disk.remove(path);
    return await writeHashed(this.#disk, path, {
      fill,
      nameOf: (sha256) => join(this.#folder, sha256),
    });
  }

  /** Read one, all of it. */
  async read(
    { sha256, bytes }: CarryFile,
    take: (from: CarryReader) => Promise<void>,
  ): Promise<void> {
    const refuse = (found: string): never => {
      throw new RequestError(
        `Cannot go on with what ${quote(this.#folder)} holds: ${quote(sha256)} ${found}. ` +
          "Begin anew with `restart`.",
      );
    };
    if (!/^[0-9a-f]{64}$/.test(sha256)) refuse("is no name of a file there");
    const path = join(this.#folder, sha256);
    if ((await this.#disk.lstat(path))?.size !== bytes) {
      refuse("is not there, or does not have the bytes that were written");
    }
    await using reader = await this.#disk.open(path);
    if (await readHashed(reader, { bytes, take, refuse }) !== sha256) {
      refuse("does not have the bytes that were written");
    }
  }

  /** Remove all but one. */
  async keep(file: CarryFile | undefined): Promise<void> {
    for (const name of await this.#disk.list(this.#folder)) {
      if (name !== file?.sha256) await this.#disk.remove(join(this.#folder, name));
    }
  }
}
