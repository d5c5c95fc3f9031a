/**
 * HTML whose texts are escaped unless they are known to be markup: what comes from a model stays
 * text.
 */
import { escapeControls } from "../../errors.ts";

/** Text that is markup. */
export class Markup {
  readonly text: string;

  /** For markup that was made here, or by a library from numbers alone. */
  constructor(text: string) {
    this.text = text;
  }
}

/**
 * What may stand in a template: texts and numbers are escaped, `false` and `undefined` are nothing.
 */
export type Part = string | number | Markup | readonly Part[] | false | undefined;

/**
 * Markup with `parts` between its pieces, without the indentation that these have in the source.
 */
export function html(pieces: TemplateStringsArray, ...parts: readonly Part[]): Markup {
  const [first = "", ...others] = pieces.map((piece) => piece.replace(/\s*\n\s*/g, "\n"));
  return new Markup(others.reduce((text, piece, i) => text + textOf(parts[i]) + piece, first));
}

function textOf(part: Part): string {
  if (part instanceof Markup) return part.text;
  if (Array.isArray(part)) return part.map(textOf).join("");
  return part === undefined || part === false ? "" : escapeHtml(String(part));
}

/**
 * A text for HTML, between tags and in quoted attributes; what would hide or turn text around is
 * shown as its number.
 */
export function escapeHtml(text: string): string {
  return escapeControls(text).replace(/[&<>"'`]/g, (c) => `&#${c.charCodeAt(0)};`);
}
