/**
 * A chart as a file of its own, for a page that is not ours: a model card. It has its own paper,
 * and its colours are right in light and dark; nothing comes from elsewhere and nothing runs.
 * Colours are attributes, as a viewer without styles needs them, and the style turns them dark.
 */
import type { LegendEntry } from "./chart.ts";
import { html, Markup } from "./markup.ts";
import { COLORS } from "./shell.ts";

/** Width of what is in a picture, and space around it, in the units of its drawing. */
export const WIDTH = 420;
const MARGIN = 12;

/** Width of a picture where a page does not say one, in pixels. */
const SHOWN = 560;

/** Height of a line of text. */
const LINE = 18;

/** A piece of a picture; its places are counted from its upper left corner. */
export interface Piece {
  readonly height: number;
  readonly markup: Markup;
}

/** A chart of `drawChart`, of a size that it was drawn with. */
export function chartPiece(chart: Markup, height: number): Piece {
  const sized = chart.text.replace("<svg ", `<svg width="${WIDTH}" height="${height}" `);
  return { height, markup: new Markup(sized) };
}

/** What lines mean, two beside one another. */
export function legendPiece(entries: readonly Omit<LegendEntry, "dash">[]): Piece {
  const items = entries.map(({ name, color }, i) => {
    const [x, y] = [i % 2 * WIDTH / 2, Math.floor(i / 2) * LINE + 13];
    return html`
      <path d="M${x} ${y - 4}h18" stroke="${color}" stroke-width="2" />
      <text x="${x + 24}" y="${y}" fill="var(--muted)">${shortened(name, 28)}</text>
    `;
  });
  return { height: Math.ceil(entries.length / 2) * LINE + 4, markup: html`${items}` };
}

/** A name without its middle where it is longer than there is room for. */
export function shortened(name: string, room: number): string {
  const letters = [...name];
  if (letters.length <= room) return name;
  const kept = Math.floor((room - 1) / 2);
  return `${letters.slice(0, kept).join("")}…${letters.slice(-kept).join("")}`;
}

/** The picture, as the text of an SVG file. */
export function pictureOf(
  pieces: readonly Piece[],
  { title, description }: { readonly title: string; readonly description: string },
): string {
  let y = MARGIN + LINE + 6;
  const placed = pieces.map(({ height, markup }) => {
    const part = html`<g transform="translate(${MARGIN} ${y})">${markup}</g>\n`;
    y += height;
    return part;
  });
  const [width, height] = [WIDTH + 2 * MARGIN, y + MARGIN];
  const inner = html`
    <rect width="${width}" height="${height}" rx="6" fill="var(--paper)" />
    <text class="head" x="${MARGIN}" y="${MARGIN + 12}" fill="var(--ink)">${title}</text>
    ${placed}
  `;
  const { text, style } = coloured(inner.text);
  const head = html`
    <svg xmlns="http://www.w3.org/2000/svg" role="img" width="${SHOWN}" height="${Math.round(
      height * SHOWN / width,
    )}"
      viewBox="0 0 ${width} ${height}">
      <title>${title}</title>
      <desc>${description}</desc>
  `;
  // XML has no place for some characters, not even as numbers.
  return `${head.text}\n<style>${FONTS}${style}</style>\n${text}</svg>\n`
    .replace(/[\ufffe\uffff]/g, "\ufffd").toWellFormed().trimStart();
}

const FONTS = "text{font:11px system-ui,sans-serif}text.head{font-size:13px;font-weight:600}";

/** Colours of pages by name. */
function namedIn(style: string): ReadonlyMap<string, string> {
  return new Map(
    [...style.matchAll(/--([\w-]+): (#[0-9a-f]{6});/g)].map(([, name, color]) =>
      [name!, color!] as const
    ),
  );
}

/** Markup with the colours themselves in place of variables, and the style that has them dark. */
function coloured(text: string): { readonly text: string; readonly style: string } {
  const [light, dark] = COLORS.split("@media").map(namedIn) as [
    ReadonlyMap<string, string>,
    ReadonlyMap<string, string>,
  ];
  const used = new Set<string>();
  const plain = text.replace(/="var\(--([\w-]+)\)"/g, (_, name: string) => {
    used.add(name);
    return `="${light.get(name)!}"`;
  });
  const rules = [...used].flatMap((name) =>
    ["fill", "stroke"].map((what) => `[${what}="${light.get(name)}"]{${what}:${dark.get(name)}}`)
  );
  return { text: plain, style: `@media(prefers-color-scheme:dark){${rules.join("")}}` };
}
