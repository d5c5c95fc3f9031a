/** Pictures of a page on one sheet: an SVG that stands alone. */
import type { LegendEntry } from "./chart.ts";
import { escapeHtml, type Markup } from "./markup.ts";
import { COLORS } from "./shell.ts";

/** A chart, and what stands above it. */
export interface Picture {
  readonly title: string;
  readonly chart: Markup;
}

/** Pictures with one legend. */
interface Part {
  readonly pictures: readonly Picture[];
  readonly legend: readonly LegendEntry[];
}

const MARGIN = 24;
const GAP = 28;
const LINE = 20;
/** Width of a picture, and how many stand side by side. */
const WIDTH = 400;
const ACROSS = 2;

/** The sheet. Colours are light or dark as the reader's are. */
export function sheet(
  { title, parts }: { readonly title: string; readonly parts: readonly Part[] },
): string {
  const body: string[] = [];
  const width = 2 * MARGIN + ACROSS * WIDTH + (ACROSS - 1) * GAP;
  let y = MARGIN + 18;
  body.push(text(MARGIN, y, title, "title"));
  y += LINE;
  for (const { pictures, legend } of parts) {
    for (const [i, { name, color, dash }] of legend.entries()) {
      const x = MARGIN + i % ACROSS * (WIDTH + GAP);
      if (i % ACROSS === 0) y += LINE;
      const dashes = dash ? ` stroke-dasharray="${dash.join(" ")}"` : "";
      body.push(
        `<path d="M${x} ${y - 4}h24" stroke="${color}" stroke-width="2"${dashes}/>`,
        text(x + 32, y, name),
      );
    }
    y += GAP;
    for (let first = 0; first < pictures.length; first += ACROSS) {
      let most = 0;
      for (const [i, { title, chart }] of pictures.slice(first, first + ACROSS).entries()) {
        const [, , w = 1, h = 1] = (/viewBox="([^"]*)"/.exec(chart.text)?.[1] ?? "").split(" ")
          .map(Number);
        const height = Math.round(WIDTH * h / w);
        const x = MARGIN + i * (WIDTH + GAP);
        body.push(
          text(x, y + 14, title, "name"),
          chart.text.replace(
            "<svg ",
            `<svg x="${x}" y="${y + 24}" width="${WIDTH}" height="${height}" `,
          ),
        );
        most = Math.max(most, height);
      }
      y += most + 24 + GAP;
    }
  }
  const style = `${COLORS}
svg { background: var(--paper); }
text { font: 13px system-ui, sans-serif; fill: var(--ink); }
.title { font-size: 18px; font-weight: 600; }
.name { font-weight: 600; }
.chart text { font-size: 11px; fill: var(--muted); }`;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${y}" width="${width}" height="${y}">
<title>${escapeHtml(title)}</title><style>${style}</style>
${body.join("\n")}
</svg>
`;
}

function text(x: number, y: number, content: string, kind?: string): string {
  const named = kind === undefined ? "" : ` class="${kind}"`;
  return `<text x="${x}" y="${y}"${named}>${escapeHtml(content)}</text>`;
}
