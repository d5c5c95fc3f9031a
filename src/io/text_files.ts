/** Texts: read and written whole, tried before hours of work that end with them, or appended to. */
import { dirname } from "node:path";
import { quote, RequestError } from "../errors.ts";
import { disk } from "./disk.ts";
import { attempt, spaceError } from "./system_faults.ts";

/**
 * See that a file can be written, and leave everything as it was: to be asked before hours of work
 * that end with it.
 *
 * @throws {RequestError} it is a folder, or there is no folder to hold it.
 * @throws {SpaceError} the system refuses it.
 */
export async function tryWrite(path: string): Promise<void> {
  const refuse = (found: string): never => {
    throw new RequestError(`Cannot write ${quote(path)}: ${found}`);
  };
  const found = await disk.mayRead(path) ? await disk.stat(path) : undefined;
  if (found?.kind === "folder") refuse("it is a folder. Give the name of a file.");
  // Whoever reads a pipe would take it for ended.
  if (found?.kind === "other") return;
  const folder = dirname(path);
  if (await disk.mayRead(folder) && (await disk.stat(folder))?.kind !== "folder") {
    refuse(`there is no folder ${quote(folder)}. Make it, or give another place.`);
  }
  await attempt("write", path, async () => {
    try {
      (await Deno.open(path, { write: true })).close();
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      (await Deno.open(path, { write: true, createNew: true })).close();
      await Deno.remove(path);
    }
  });
}

/**
 * The text of a file.
 *
 * @throws {RequestError} there is no such file.
 * @throws {SpaceError} the system refuses it.
 */
export async function readText(path: string): Promise<string> {
  return await attempt("read", path, async () => {
    try {
      return await Deno.readTextFile(path);
    } catch (cause) {
      if (!(cause instanceof Deno.errors.NotFound)) throw cause;
      throw new RequestError(`Cannot read ${quote(path)}: there is no such file.`, { cause });
    }
  });
}

/** Write a text to a file, in place of what it held. @throws {SpaceError} the system refuses it. */
export async function writeText(path: string, text: string): Promise<void> {
  await attempt("write", path, () => Deno.writeTextFile(path, text));
}

/** What is written to a file or a stream by and by. */
interface SyncWriter {
  writeSync(bytes: Uint8Array): number;
}

/**
 * Write all of a text at once.
 *
 * @param name What is written to, for messages.
 * @throws {SpaceError} the system refuses it; `Deno.errors.BrokenPipe` as its cause: nobody reads
 *   it any more.
 */
export function writeAll(writer: SyncWriter, text: string, name: string): void {
  const bytes = new TextEncoder().encode(text);
  try {
    for (let done = 0; done < bytes.length;) done += writer.writeSync(bytes.subarray(done));
  } catch (cause) {
    throw spaceError("write to", name, cause);
  }
}

/**
 * Open a file to append lines to; what was there stays.
 *
 * @throws {SpaceError} the system refuses it.
 */
export function openLog(path: string): { write(line: string): void } & Disposable {
  let file: Deno.FsFile;
  try {
    file = Deno.openSync(path, { append: true, create: true });
  } catch (cause) {
    throw spaceError("write to", path, cause);
  }
  return {
    write: (line) => writeAll(file, line, path),
    [Symbol.dispose]: () => file.close(),
  };
}
