/** README.md as tests read it: its programs and its tables. */
import assert from "node:assert/strict";

/** The text. */
export const README = Deno.readTextFileSync(new URL("../README.md", import.meta.url));

/** The fenced blocks of a language, in order. */
export function blocks(language: string): string[] {
  return [...README.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, "gms"))].map((
    [, text],
  ) => text!);
}

/** The body rows of the table whose head begins with these cells. */
export function tableRows(...given: (string | { readonly after: string })[]): string[][] {
  const head = given.filter((cell) => typeof cell === "string");
  const heading = given.find((cell) => typeof cell !== "string");
  const cells = (line: string) => line.slice(1, -1).split(/(?<!\\)\|/).map((cell) => cell.trim());
  const text = heading ? README.slice(README.indexOf(`${heading.after}\n`)) : README;
  const lines = text.split("\n");
  const at = lines.findIndex((line) =>
    head.every((cell, i) => line.startsWith("|") && cells(line)[i] === cell)
  );
  assert.ok(at >= 0, `there is no table with ${head.join(", ")}`);
  const rows: string[][] = [];
  for (const line of lines.slice(at + 2)) {
    if (!line.startsWith("|")) break;
    rows.push(cells(line));
  }
  return rows;
}
