/**
 * Names, numbers and programs of others as Markdown that shows them and does nothing else. Pure.
 */

/**
 * A link to a model of the Hub, or its name alone if it has characters that an address would not
 * take.
 */
export function hubLink(id: string): string {
  return /^[\w.-]+(?:\/[\w.-]+)?$/.test(id)
    ? `[${id.replaceAll("_", "\\_")}](https://huggingface.co/${id})`
    : code(id);
}

/** Text on one line, without characters that Markdown or a terminal would act on. */
export function oneLine(text: string): string {
  // deno-lint-ignore no-control-regex -- the pattern is of control characters
  return text.replace(/[\s\u0000-\u001f\u007f-\u009f]+/g, " ").replace(/[\\`*_<>[\]|#]/g, "\\$&")
    .trim();
}

/** Text as it is, in a line. */
export function code(text: string): string {
  // deno-lint-ignore no-control-regex -- the pattern is of control characters
  const shown = text.replace(/[\s\u0000-\u001f\u007f-\u009f]+/g, " ").trim();
  const ticks = fence(shown, 1);
  const space = shown.startsWith("`") || shown.endsWith("`") ? " " : "";
  return `${ticks}${space}${shown}${space}${ticks}`;
}

/** Text as it is, in lines. */
export function fenced(text: string, language: string): string {
  const ticks = fence(text, 3);
  return `${ticks}${language}\n${text.replace(/\n+$/, "")}\n${ticks}`;
}

/** Backticks that the text does not have so many of in a row. */
function fence(text: string, least: number): string {
  const longest = Math.max(0, ...[...text.matchAll(/`+/g)].map(([run]) => run.length));
  return "`".repeat(longest < least ? least : longest + 1);
}

/** Rows under a head. */
export function table(
  head: readonly string[],
  rows: readonly (readonly (string | undefined)[])[],
): string {
  const line = (cells: readonly (string | undefined)[]) =>
    `| ${
      cells.map((cell = "") => cell.replace(/\s*\n\s*/g, " ").replaceAll("|", "\\|")).join(" | ")
    } |`;
  return [line(head), `|${"---|".repeat(head.length)}`, ...rows.map(line)].join("\n");
}
