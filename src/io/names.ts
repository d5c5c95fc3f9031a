/**
 * Which names of files Sluice takes from an index or a plan. A name that could lead out of its
 * folder, now or after a server or another system has decoded it, is refused. Pure.
 */

/** The file's name. */
export const RECORD_FILE = "sluice.json";

/** Whether a file of an output holds weights, by its name. */
export function isWeights(path: string): boolean {
  return /\.(?:safetensors|gguf)$/.test(path);
}

const RESERVED = /^(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(?:\..*)?$/i;

// deno-lint-ignore no-control-regex -- the pattern is of control characters
const CONTROL = /[\u0000-\u001f\u007f-\u009f]/;

/** What the names of stages end in, in which outputs grow (sinks/stage.ts). */
export const PARTIAL = /\.sluice-partial(?:-[0-9a-f]{8})?$/;

/** What the name of a file ends in that has what a search for an output's bits has measured. */
export const SEARCH_SUFFIX = ".sluice-search";

/** What the name of a folder ends in that remembers how far the upload of another is. */
export const UPLOAD_SUFFIX = ".sluice-upload";

/**
 * Why `name` is no plain file name (with no folder in it), or `true`. The reason continues a
 * sentence after the name.
 */
export function checkFileName(name: string): true | string {
  for (const spelling of spellings(name)) {
    const reason = /[/\\]/.test(spelling) ? "which leads to another folder" : segment(spelling);
    if (reason !== true) return reason;
  }
  return true;
}

/** Why `path` is no relative path with `/` that stays in its folder, or `true`. */
export function checkRelativePath(path: string): true | string {
  for (const spelling of spellings(path)) {
    if (spelling.startsWith("/")) return "which is absolute";
    if (spelling.includes("\\")) return "which holds a backslash";
    for (const part of spelling.split("/")) {
      const reason = segment(part);
      if (reason !== true) return reason;
    }
  }
  return true;
}

/**
 * Why `path`, from a recipe, is none that an output can go to, or `true`. It may lead anywhere, but
 * not to where another output grows until it is whole.
 */
export function checkOutputPath(path: string): true | string {
  if (!path.isWellFormed()) return "which holds half a surrogate pair";
  if (CONTROL.test(path)) return "which holds a control character";
  if (path.split(/[/\\]/).some((part) => PARTIAL.test(nameKey(part)))) {
    return "where a stopped run would leave its files";
  }
  return true;
}

/**
 * A key that is equal for names that some file system takes for one: NFC and NFD, capitals and
 * small letters.
 */
export function nameKey(path: string): string {
  return path.normalize("NFC").toLowerCase();
}

function segment(name: string): true | string {
  if (name === "") return "which has an empty part";
  if (name === "." || name === "..") return "which leads to another folder";
  if (!name.isWellFormed()) return "which holds half a surrogate pair";
  if (CONTROL.test(name)) return "which holds a control character";
  if (name.includes(":")) return "which holds a colon";
  if (/[. ]$/.test(name)) return "which ends in a dot or a space";
  if (RESERVED.test(name)) return "which Windows reserves";
  if (new TextEncoder().encode(name).length > 255) return "which is longer than 255 bytes";
  return true;
}

/** The name, and what is left after each of up to five rounds of percent-decoding. */
function spellings(name: string): string[] {
  const found = [name];
  for (let round = 0; round < 5; round++) {
    const last = found.at(-1)!;
    const decoded = last.replace(
      /%([0-7][0-9a-f])/gi,
      (_, hex: string) => String.fromCharCode(parseInt(hex, 16)),
    );
    if (decoded === last) break;
    found.push(decoded);
  }
  return found;
}
