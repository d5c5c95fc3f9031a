/** Flags of a command line as words again, which another process can parse. */
import { resolve } from "node:path";
import { disk } from "../../io/disk.ts";
import type { Flag, ParsedArguments } from "../command.ts";

/** The flags that were given, of some; paths from the root on. */
export async function wordsOf(parsed: ParsedArguments, flags: readonly Flag[]): Promise<string[]> {
  const words: string[] = [];
  for (const { name, repeat, path } of flags) {
    if (!parsed.has(name)) continue;
    for (const value of repeat ? parsed.all(name) : [parsed.get(name)!]) {
      const word = path ? await whole(String(value)) : String(value);
      words.push(
        value === true ? `--${name}` : value === false ? `--no-${name}` : `--${name}=${word}`,
      );
    }
  }
  return words;
}

/** A path from the root on, where a word is one. */
export async function whole(word: string): Promise<string> {
  return word !== "sample" && await disk.stat(word) ? resolve(word) : word;
}
