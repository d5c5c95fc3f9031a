/**
 * Files that are often found where a safetensors file should be, known by their first bytes. Pure.
 */

/** Bytes of a file's start that `impostor` wants to see. */
export const START_BYTES = 512;

const CONVERT =
  "It may run code when it is opened, so Sluice never does: save the model as safetensors first";

/** What a file is, and what to do about it. The first that fits is taken. */
const MAGIC: readonly (readonly [bytes: readonly number[], what: string])[] = [
  [[0x50, 0x4b, 0x03, 0x04], `a zip file, as PyTorch's pickles are (.bin, .pt, .pth). ${CONVERT}`],
  [[0x80, 0x02], `a Python pickle. ${CONVERT}`],
  [[0x80, 0x03], `a Python pickle. ${CONVERT}`],
  [[0x80, 0x04], `a Python pickle. ${CONVERT}`],
  [[0x80, 0x05], `a Python pickle. ${CONVERT}`],
  [[0x47, 0x47, 0x55, 0x46], "a GGUF file. Give the safetensors checkpoint it was made from"],
  [[0x1f, 0x8b], "a gzip file. Unpack it first"],
  [[0x28, 0xb5, 0x2f, 0xfd], "a Zstandard file. Unpack it first"],
  [[0xfd, 0x37, 0x7a, 0x58, 0x5a], "an xz file. Unpack it first"],
  [[0x42, 0x5a, 0x68], "a bzip2 file. Unpack it first"],
  [[0x37, 0x7a, 0xbc, 0xaf], "a 7z file. Unpack it first"],
  [
    [0x89, 0x48, 0x44, 0x46],
    "an HDF5 file (.h5, as Keras writes). Save the model as safetensors first",
  ],
  [[0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59], "a NumPy file. Save the arrays as safetensors first"],
  [[0x7f, 0x45, 0x4c, 0x46], "a program (ELF). Download the file again"],
];

/** The same for files of text, after leading white space and a byte order mark; in lower case. */
const TEXT: readonly (readonly [start: string, what: string])[] = [
  [
    "version https://git-lfs",
    "a Git-LFS pointer, which only says where the file is. Run `git lfs pull` in its folder, or download the file itself",
  ],
  [
    "version https://hawser",
    "a Git-LFS pointer, which only says where the file is. Run `git lfs pull` in its folder, or download the file itself",
  ],
  [
    "<!doctype",
    "an HTML page, as a server's error or login page is. Download the file again, with access to it",
  ],
  [
    "<html",
    "an HTML page, as a server's error or login page is. Download the file again, with access to it",
  ],
  ["<?xml", "an XML document, as a storage server's error is. Download the file again"],
  ["<error", "an XML document, as a storage server's error is. Download the file again"],
  ["entry not found", "a server's “not found” message. Download the file again"],
  [
    "invalid username or password",
    "a server's refusal. Download the file again, with access to it",
  ],
  ["access to model", "a server's refusal. Download the file again, with access to it"],
];

/**
 * What a file that is no safetensors file seems to be, with advice, as the end of a sentence that
 * begins “It is”; `undefined` when it is nothing known.
 *
 * @param start the first `START_BYTES` bytes, fewer when the file is shorter
 */
export function impostor(start: Uint8Array): string | undefined {
  for (const [bytes, what] of MAGIC) {
    if (bytes.every((byte, i) => start[i] === byte)) return what;
  }
  // ustar, 257 bytes into a tar file's first block.
  if ([0x75, 0x73, 0x74, 0x61, 0x72].every((byte, i) => start[257 + i] === byte)) {
    return "a tar file. Unpack it first";
  }
  if (start.length > 0 && start.every((byte) => byte === 0)) {
    return "full of zeros, as a download that was never finished is. Download the file again";
  }
  const text = new TextDecoder("latin1").decode(start.subarray(0, 128))
    .replace(/^(?:\xef\xbb\xbf)?\s*/, "").toLowerCase();
  return TEXT.find(([opening]) => text.startsWith(opening))?.[1];
}
