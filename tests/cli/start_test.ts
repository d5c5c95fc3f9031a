/** What the program loads to answer: packages that few commands use come with their first use. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";

const PROGRAM = fileURLToPath(new URL("loaded_packages.ts", import.meta.url));

/** How many scripts of each package a command line loads. */
async function loaded(words: readonly string[]): Promise<Readonly<Record<string, number>>> {
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", PROGRAM, ...words],
    stdout: "null",
  }).output();
  const text = new TextDecoder().decode(stderr);
  assert.ok(success, text);
  return JSON.parse(text.split("\n").at(-1)!);
}

/**
 * The packages whose code was run. Of one of CommonJS that is imported and was not used yet there
 * is one script, which would load it.
 */
function used(counts: Readonly<Record<string, number>>): string[] {
  const small = ["pretty-bytes", "picomatch", "fastest-levenshtein"];
  const deferred = ["yaml", "cli-table3", "cli-progress"];
  return Object.keys(counts).filter((name) =>
    !small.includes(name) && !(deferred.includes(name) && counts[name] === 1)
  ).sort();
}

const TABLE = [
  "ansi-regex",
  "cli-table3",
  "emoji-regex",
  "is-fullwidth-code-point",
  "string-width",
  "strip-ansi",
];

for (
  const [words, packages] of [
    [["--help"], ["commander"]],
    [["--version"], ["commander"]],
    [["plan", "sample", "--scheme", "NF4"], ["commander", ...TABLE]],
    [["plan", "sample"], ["@huggingface/tokenizers", "commander", ...TABLE]],
  ] as const
) {
  Deno.test(`sluice ${words.join(" ")} loads no package that it does not use`, async () => {
    assert.deepEqual(used(await loaded(words)), [...packages].sort());
  });
}
