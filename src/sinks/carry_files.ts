/**
 * The carry of a run on disk: files that have their SHA-256 as their name, of which the last is
 * kept. Each is read back against its name.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import type { CarryReader, CarryWriter } from "../carry.ts";
import { quote, RequestError, SpaceError } from "../errors.ts";
import type { Disk } from "../io/disk.ts";
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
    const hash = createHash("sha256");
    let size = 0;
    await using undo = new AsyncDisposableStack();
    undo.defer(async () => {
      // What is half there takes room that the output may need.
      try {
        if (await this.#disk.lstat(path)) await this.#disk.remove(path);
      } catch (error) {
        // Why it is half there is what matters; the next save removes it.
        if (!(error instanceof SpaceError)) throw error;
      }
    });
    {
      await using writer = await this.#disk.create(path, 0, { lasting: true });
      await fill({
        async write(bytes) {
          const at = size;
          size += bytes.length;
          const writing = writer.write(at, bytes);
          // The hash is computed while the disk takes the bytes.
          hash.update(bytes);
          await writing;
        },
      });
      await writer.sync();
    }
    const sha256 = hash.digest("hex");
    await this.#disk.rename(path, join(this.#folder, sha256));
    undo.move();
    await this.#disk.syncFolder(this.#folder);
    return { sha256, bytes: size };
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
    if (at !== bytes || hash.digest("hex") !== sha256) {
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
