/**
 * Charts by Vega-Lite, drawn here and now as SVG: the page needs no script to show them. Colours
 * are CSS variables, so that one picture is right in light and dark. Only numbers and words of this
 * program go into a chart; names from a model stand beside it.
 */
import type { TopLevelSpec } from "vega-lite";
import { escapeHtml, html, Markup, type Part } from "./markup.ts";

/** Size of a chart, in the units of its own drawing; the page scales it to the width there is. */
export const CHART = { width: 300, height: 150 } as const;

/** For `labelExpr`: a number as it is, `40`, `0.001`, `1e-7`. */
export const PLAIN = "'' + datum.value";

/** What all charts look like. */
const CONFIG = {
  background: "transparent",
  aria: false,
  padding: 2,
  view: { stroke: null },
  axis: {
    labelColor: "var(--muted)",
    titleColor: "var(--muted)",
    labelFontSize: 11,
    titleFontSize: 11,
    titleFontWeight: "normal",
    titlePadding: 4,
    gridColor: "var(--grid)",
    domain: false,
    ticks: false,
    labelPadding: 5,
  },
} as const;

/** A part of a Vega-Lite specification without what all share. */
export type ChartSpec = Omit<Extract<TopLevelSpec, { layer: unknown }>, "config" | "$schema">;

/** Draw a chart. The library is loaded only here: it is large, and most runs draw nothing. */
export async function drawChart(
  spec: ChartSpec,
  { title, description }: { readonly title: string; readonly description: string },
): Promise<Markup> {
  const [vega, vegaLite] = await Promise.all([import("vega"), import("vega-lite")]);
  const { spec: compiled } = vegaLite.compile(
    { ...CHART, autosize: { type: "fit", contains: "padding" }, ...spec, config: CONFIG },
  );
  const svg = await new vega.View(vega.parse(compiled), { renderer: "none" }).toSVG();
  const [, , viewBox] = /^<svg [^>]*?(viewBox="([^"]*)")/.exec(svg) ?? [];
  const inner = svg.slice(svg.indexOf(">") + 1);
  return new Markup(
    `<svg class="chart" role="img" viewBox="${escapeHtml(viewBox ?? "")}">` +
      `<title>${escapeHtml(title)}</title><desc>${escapeHtml(description)}</desc>${compact(inner)}`,
  );
}

/**
 * Leave out what the page says once for all charts, what is not seen, and long fractions in
 * attributes.
 */
function compact(svg: string): string {
  return svg
    .replace(/<path class="(?:background|foreground)"[^>]*(?:\/>|><\/path>)/g, "")
    .replace(/<[a-z][^>]*>/g, (tag) =>
      tag
        .replace(/ (?:aria-\w+|role|pointer-events|font-family|font-size|font-weight)="[^"]*"/g, "")
        .replace(/ (?:opacity|stroke-width)="1"| fill-opacity="1"/g, "")
        .replace(/\d+\.\d{2,}/g, (number) => String(Math.round(Number(number) * 10) / 10)));
}

/** A line of a chart, as a legend tells of it. */
export interface LegendEntry {
  readonly name: string;
  /** A CSS colour. */
  readonly color: string;
  readonly dash?: readonly [line: number, gap: number];
}

/** What the lines of charts mean; `more` are further items. */
export function legend(entries: readonly LegendEntry[], more?: Part): Markup {
  const lines = entries.map(({ name, color, dash }) =>
    html`<li><svg class="key" viewBox="0 0 24 8" aria-hidden="true"><path d="M0 4H24" stroke="${color}" stroke-width="2"${
      dash && html`
        stroke-dasharray="${dash.join(" ")}"
      `
    }/></svg>${name}</li>`
  );
  return html`<ul class="legend">${lines}${more}</ul>`;
}
