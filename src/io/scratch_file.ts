/** Files that are changed in place, at once, while a run goes on. */
import type { ScratchFile } from "../backend.ts";
import { quote } from "../errors.ts";
import { spaceError } from "./system_faults.ts";

/**
 * Make a file of `size` zeros, which is removed when it is disposed of.
 *
 * @throws {SpaceError} the system refuses it; so do its methods.
 */
export function openScratch(path: string, size: number): ScratchFile {
  const doing = <T>(what: string, call: () => T): T => {
    try {
      return call();
    } catch (cause) {
      throw spaceError(what, path, cause);
    }
  };
  const file = doing(
    "create",
    () => Deno.openSync(path, { read: true, write: true, createNew: true }),
  );
  const remove = () => {
    file.close();
    doing("remove", () => Deno.removeSync(path));
  };
  using undo = new DisposableStack();
  undo.defer(remove);
  doing("create", () => file.truncateSync(size));
  undo.move();
  return {
    read(begin, into) {
      doing("read", () => {
        file.seekSync(begin, Deno.SeekMode.Start);
        for (let done = 0; done < into.length;) {
          const got = file.readSync(into.subarray(done));
          if (got === null) {
            throw new RangeError(
              `Cannot read bytes ${begin} to ${begin + into.length} of ${
                quote(path)
              }: it has ${size}.`,
            );
          }
          done += got;
        }
      });
    },
    write(begin, bytes) {
      doing("write", () => {
        file.seekSync(begin, Deno.SeekMode.Start);
        for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
      });
    },
    [Symbol.dispose]: remove,
  };
}
