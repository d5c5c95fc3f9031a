/** What the operating system, or Deno, refuses: a sentence that says what to do. */
import { quote, SpaceError } from "../errors.ts";

/**
 * Run one call to the system; what the system refuses becomes a sentence.
 *
 * @param doing The verb of that sentence: `open`.
 * @throws {SpaceError} the system refuses it.
 */
export async function attempt<T>(doing: string, path: string, call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (cause) {
    throw spaceError(doing, path, cause);
  }
}

/** A refusal of the system as a sentence; other errors as they are. */
export function spaceError(doing: string, path: string, cause: unknown): unknown {
  if (!isSystemFault(cause)) return cause;
  return new SpaceError(`Cannot ${doing} ${quote(path)}: ${advise(cause)}`, { path, cause });
}

/**
 * Whether an error came from the operating system or from Deno's permissions, and not from a
 * mistake in a program. Most faults have their code; those the runtime has no name for say only
 * `(os error 27)`.
 */
export function isSystemFault(error: unknown): error is Error & { code?: string } {
  if (!(error instanceof Error)) return false;
  return error instanceof Deno.errors.NotCapable || /\(os error \d+\)/.test(error.message) ||
    "code" in error && typeof error.code === "string" && /^E[A-Z0-9]+$/.test(error.code);
}

/** The system's code in a refusal, `ENOENT`; undefined where there is none. */
export function codeOf(error: unknown): string | undefined {
  const cause = error instanceof SpaceError ? error.cause : undefined;
  return isSystemFault(cause) ? cause.code : undefined;
}

function advise(fault: Error & { code?: string }): string {
  switch (fault.code) {
    case "EACCES":
    case "EPERM":
      return "permission is denied. Check the owner and the rights of the file and of its folder.";
    case "EISDIR":
      return "it is a folder. Give the name of a file.";
    case "ENOSPC":
    case "EDQUOT":
      return "the disk is full. Free some space, or write to another disk.";
    case "EMFILE":
    case "ENFILE":
      return "too many files are open. Raise the limit (`ulimit -n`).";
    case "EROFS":
      return "the disk is read-only. Write somewhere else.";
    case "ENAMETOOLONG":
      return "its name is too long for this system.";
  }
  const text = fault.message.replace(/\.$/, "");
  return fault instanceof Deno.errors.NotCapable
    ? `${text}.`
    : `the system says “${text}”. Check the path, its permissions and the disk.`;
}
