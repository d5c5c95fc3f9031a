/**
 * One file that is open, read or written at places that callers choose, in any order. Refused: a
 * file that changes while it is read.
 */
import { CheckpointError, quote } from "../errors.ts";
import { attempt } from "./system_faults.ts";

/** A file open for reading. */
export interface DiskReader extends AsyncDisposable {
  readonly size: number;
  /** When it was last changed, in milliseconds since 1970; absent where nobody tells. */
  readonly modified?: number | undefined;
  /**
   * Bytes `[begin, end)`. Calls may overlap in time.
   *
   * @param into Where they may be put, and are given back from: as many bytes. A reader that has
   * them elsewhere gives those.
   * @throws {CheckpointError} the file changed, or ends early.
   */
  read<B extends ArrayBufferLike = ArrayBuffer>(
    begin: number,
    end: number,
    into?: Uint8Array<B>,
  ): Promise<Uint8Array<ArrayBuffer | B>>;
}

/** A file open for writing. */
export interface DiskWriter extends AsyncDisposable {
  /** Put all of `bytes` at `offset`. Calls may overlap in time. */
  write(offset: number, bytes: Uint8Array): Promise<void>;
  /** Wait until everything written is on the disk. */
  sync(): Promise<void>;
}

/**
 * Open a file for reading.
 *
 * @param growing It is still being written by this program.
 * @throws {SpaceError} the system refuses it.
 */
export async function openReader(path: string, growing: boolean): Promise<DiskReader> {
  const file = await Deno.open(path);
  const { size, mtime } = await file.stat();
  const changed = (found: string, offset: number): never => {
    throw new CheckpointError(
      `Cannot read ${quote(path)}: it changed while it was in use, ${found}. ` +
        `Leave the checkpoint alone until Sluice is done, and start again.`,
      { file: path, offset },
    );
  };
  const inTurn = queue();
  return {
    size,
    modified: mtime?.getTime(),
    read(begin, end, into) {
      if (!(begin >= 0 && begin <= end && end <= size)) {
        throw new RangeError(
          `Cannot read bytes ${begin} to ${end} of ${quote(path)}: it has ${size} bytes.`,
        );
      }
      if (into && into.length !== end - begin) {
        throw new RangeError(
          `Cannot read bytes ${begin} to ${end} of ${quote(path)} into ${into.length}.`,
        );
      }
      return inTurn(() =>
        attempt("read", path, async () => {
          const bytes = into ?? new Uint8Array(end - begin);
          let filled = 0;
          // Where to read and whether it changed are asked in place: each takes a microsecond, and
          // a wait for it would last as long as the kernel that the thread is in, so that nothing
          // would be read meanwhile.
          if (bytes.length > 0) file.seekSync(begin, Deno.SeekMode.Start);
          while (filled < bytes.length) {
            const got = await file.read(bytes.subarray(filled));
            if (got === null) {
              return changed(
                `ending at byte ${begin + filled} where it had ${size}`,
                begin + filled,
              );
            }
            filled += got;
          }
          if (growing) return bytes;
          const now = file.statSync();
          if (now.size !== size || now.mtime?.getTime() !== mtime?.getTime()) {
            return changed("as its size or time shows", begin);
          }
          return bytes;
        })
      );
    },
    async [Symbol.asyncDispose]() {
      await inTurn(() => Promise.resolve(file.close()));
    },
  };
}

/**
 * Bytes after which the system is asked to put a file on the disk while more is written to it: what
 * it held back until the end, everybody would wait for then.
 */
const SYNC_BYTES = 32 * 2 ** 20;

/**
 * Make a file of `size` zeros that was not there before.
 *
 * @param lasting It will be synced, which begins while it is written.
 * @throws {SpaceError} the system refuses it.
 */
export async function openWriter(
  path: string,
  size: number,
  lasting: boolean,
): Promise<DiskWriter> {
  const file = await Deno.open(path, { write: true, createNew: true });
  const writer = writerOf(file, { path, lasting });
  try {
    await file.truncate(size);
  } catch (fault) {
    file.close();
    await Deno.remove(path);
    throw fault;
  }
  return writer;
}

/**
 * Go on writing a file that is there, which has `size` bytes from now on.
 *
 * @throws {SpaceError} the system refuses it.
 */
export async function reopenWriter(path: string, size: number): Promise<DiskWriter> {
  const file = await Deno.open(path, { write: true });
  try {
    await file.truncate(size);
  } catch (fault) {
    file.close();
    throw fault;
  }
  return writerOf(file, { path, lasting: true });
}

function writerOf(
  file: Deno.FsFile,
  { path, lasting }: { readonly path: string; readonly lasting: boolean },
): DiskWriter {
  const inTurn = queue();
  let unsynced = 0;
  let syncing = Promise.resolve();
  return {
    write: (offset, bytes) =>
      inTurn(() =>
        attempt("write", path, async () => {
          file.seekSync(offset, Deno.SeekMode.Start);
          for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
          unsynced += bytes.length;
          if (!lasting || unsynced < SYNC_BYTES) return;
          unsynced = 0;
          // Its fault is told by `sync`.
          syncing = syncing.then(() => syncData(path));
          syncing.catch(() => {});
        })
      ),
    sync: () =>
      inTurn(() =>
        attempt("flush", path, async () => {
          await syncing;
          await file.sync();
        })
      ),
    async [Symbol.asyncDispose]() {
      await inTurn(() => Promise.resolve(file.close()));
      await Promise.allSettled([syncing]);
    },
  };
}

/** Put on the disk what a file has by now, by a handle of its own: writes need not wait for it. */
async function syncData(path: string): Promise<void> {
  using file = await Deno.open(path, { write: true });
  await file.syncData();
}

/** Runs calls one after another: a file has one position, and each call moves it. */
function queue(): <T>(call: () => Promise<T>) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  return (call) => {
    const result = last.then(call);
    // The next call comes after this one, whether it fails or not; its caller hears of the failure
    // from `result`.
    last = result.then(() => undefined, () => undefined);
    return result;
  };
}
