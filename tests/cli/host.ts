/**
 * The program run in this process: what it prints is collected, the world is a folder of the test's
 * own.
 */
import { denoHost, main } from "../../cli.ts";
import type { Host, TextStream } from "../../src/terminal/command.ts";

/** What a command line did. */
export interface Outcome {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** A stream that keeps what is written; `onWrite` sees each piece. */
export function keeper(
  { isTerminal = false, columns = 100, onWrite = (_text: string) => {} } = {},
): TextStream & { readonly text: () => string } {
  const pieces: string[] = [];
  return {
    isTerminal,
    columns,
    write(text) {
      pieces.push(text);
      onWrite(text);
    },
    text: () => pieces.join(""),
  };
}

/** Run a command line; `host` replaces parts of the world. */
export async function sluice(
  words: readonly string[],
  host: Partial<Omit<Host, "out" | "err">> & { out?: TextStream; err?: TextStream } = {},
): Promise<Outcome> {
  const out = keeper();
  const err = keeper();
  const real = denoHost(new AbortController().signal);
  // What lies in the machine's temporary folder is no business of a test's.
  const own = { colors: false, asks: false, out, err, sweepTemporary: () => Promise.resolve() };
  const code = await main(words, { ...real, ...own, ...host });
  return { code, out: out.text(), err: err.text() };
}

/** Run `test` with a new folder that is removed afterwards. */
export async function inFolder(test: (folder: string) => Promise<void>): Promise<void> {
  // The real path: an output may not lead through links, and some systems have their temporary
  // folder behind one.
  const folder = await Deno.realPath(await Deno.makeTempDir({ prefix: "sluice_cli_" }));
  try {
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Names in a folder, sorted. */
export function names(folder: string): string[] {
  return [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
}
