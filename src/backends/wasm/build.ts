/**
 * Builds kernels.wasm from assembly/ (`deno task wasm`). The result depends on the sources and the
 * pinned AssemblyScript alone; tests/wasm_test.ts checks that the committed file is what this
 * makes.
 */
import asc from "assemblyscript/asc";

/** The module that exports every kernel. */
const ENTRY = "kernels.ts";

/**
 * Everything that decides the bytes of kernels.wasm. `memoryBase` keeps the control block of
 * call.ts clear.
 */
const OPTIONS = [
  ["--outFile", "kernels.wasm"],
  ["-O3", "--noAssert"],
  ["--runtime", "stub"],
  ["--enable", "simd", "--enable", "relaxed-simd", "--enable", "threads"],
  ["--importMemory", "--sharedMemory", "--maximumMemory", "65536"],
  ["--memoryBase", "1024"],
].flat();

/**
 * Compile the kernels.
 *
 * @param sources Texts to take instead of (or beside) the files of assembly/; another `kernels.ts`
 * gives another module.
 * @throws {Error} AssemblyScript finds fault with a source; the message is its diagnostics.
 */
export async function buildKernels(
  sources: Readonly<Record<string, string>> = {},
): Promise<Uint8Array<ArrayBuffer>> {
  const folder = new URL("./assembly/", import.meta.url);
  let binary: Uint8Array<ArrayBuffer> | undefined;
  const { error, stderr } = await asc.main([ENTRY, ...OPTIONS], {
    readFile: (name) => sources[name] ?? readSource(new URL(name, folder)),
    writeFile: (_name, contents) => {
      if (typeof contents !== "string") binary = new Uint8Array(contents);
    },
    listFiles: () => [],
  });
  if (error || !binary) {
    throw new Error(`Cannot build kernels.wasm:\n${stderr.toString()}`, { cause: error });
  }
  return binary;
}

/**
 * A source's text; null when there is none, which AssemblyScript asks while it looks for a module.
 */
async function readSource(url: URL): Promise<string | null> {
  try {
    return await Deno.readTextFile(url);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

if (import.meta.main) {
  await Deno.writeFile(new URL("./kernels.wasm", import.meta.url), await buildKernels());
}
