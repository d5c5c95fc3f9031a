/**
 * Small charts of a number over the layers of a model: one for each kind of linear, all with the
 * same axes, so that they can be compared.
 */
import { type ChartSpec, drawChart, legend, type LegendEntry, PLAIN } from "./chart.ts";
import { html, type Markup } from "./markup.ts";
import { short } from "./numbers.ts";
import type { ReportWeight } from "../document.ts";

/** One line of a chart. */
export interface Series extends LegendEntry {
  value(weight: ReportWeight): number | null;
}

/** A chart before it is drawn: weights of one kind, or of several that have the same numbers. */
export interface Panel {
  readonly title: string;
  readonly weights: readonly ReportWeight[];
}

/** More kinds than this are not drawn; a table has them all. */
export const MOST_PANELS = 48;

/** Weights by kind, those in no layer left out. */
export function panelsByKind(weights: readonly ReportWeight[]): Panel[] {
  const kinds = Map.groupBy(weights.filter(({ depth }) => depth !== null), ({ kind }) => kind);
  return [...kinds].map(([title, weights]) => ({ title, weights })).slice(0, MOST_PANELS);
}

/** The charts, and what their lines mean. */
export async function drawPanels(
  panels: readonly Panel[],
  { series, scale, what }: {
    readonly series: readonly Series[];
    readonly scale: "log" | "linear";
    /** For those who do not see the picture: `Errors`. */
    readonly what: string;
  },
): Promise<Markup> {
  const points = panels.map(({ weights }) => pointsOf(weights, { series, scale }));
  const all = points.flat();
  const axis = axisOf(all.map(({ y }) => y), scale);
  const last = Math.max(1, ...all.map(({ x }) => x));
  const figures = [];
  for (const [i, { title }] of panels.entries()) {
    const own = points[i]!;
    const description = series.map(({ name }) => describe(name, own)).join(" ");
    const spec = linesOf(own, { series, axis, last, scale });
    const svg = await drawChart(spec, { title: `${what} of ${title}`, description });
    figures.push(html`<figure><figcaption>${title}</figcaption>${svg}</figure>`);
  }
  const fallback = all.some(({ fallback }) => fallback) &&
    html`<li><span class="cross" aria-hidden="true">✚</span>rounded to nearest instead</li>`;
  return html`${legend(series, fallback)}
<div class="panels">${figures}</div>`;
}

/** A number of a layer. */
export interface Point {
  readonly x: number;
  readonly y: number;
  readonly series: string;
  readonly fallback: boolean;
}

function pointsOf(
  weights: readonly ReportWeight[],
  { series, scale }: { series: readonly Series[]; scale: "log" | "linear" },
): Point[] {
  return series.flatMap(({ name, value }) =>
    weights.flatMap((weight) => {
      const y = value(weight);
      const shown = y !== null && Number.isFinite(y) && (scale === "linear" || y > 0);
      const fallback = weight.fallback !== null;
      return shown ? [{ x: weight.depth!, y, series: name, fallback }] : [];
    })
  );
}

/** What an axis shows. */
export interface Axis {
  readonly domain: readonly [low: number, high: number];
  readonly values: readonly number[];
}

/**
 * An axis that holds all values: from 0, or if it is logarithmic from one of 1, 2, 5 times a power
 * of ten to another.
 */
export function axisOf(values: readonly number[], scale: "log" | "linear"): Axis {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (!(high > 0 && high < Infinity)) return { domain: [0.1, 1], values: [0.1, 1] };
  if (scale === "linear") {
    const step = steps(high / 5).find((step) => step * 5 >= high)!;
    const count = Math.ceil(high / step - 1e-9);
    const ticks = Array.from({ length: count + 1 }, (_, n) => rounded(n * step));
    return { domain: [0, ticks.at(-1)!], values: ticks };
  }
  const from = steps(low).findLast((step) => step <= low)!;
  const to = steps(high).find((step) => step >= high && step > from)!;
  const powers = Math.log10(to / from);
  const ticks: number[] = [];
  for (let exponent = exponentOf(from); exponent <= exponentOf(to); exponent++) {
    const marks = powers > 2 ? [1] : powers > 0.7 ? [1, 2, 5] : [1, 2, 3, 4, 5, 6, 7, 8, 9];
    ticks.push(...marks.map((n) => rounded(n * 10 ** exponent)));
  }
  return { domain: [from, to], values: ticks.filter((tick) => tick >= from && tick <= to) };
}

function exponentOf(x: number): number {
  return Math.floor(Math.log10(x) + 1e-9);
}

/** 1, 2, 5 times powers of ten around a number. */
function steps(x: number): number[] {
  const exponent = exponentOf(x);
  return [-1, 0, 1].flatMap((more) => [1, 2, 5].map((n) => rounded(n * 10 ** (exponent + more))));
}

/** Decimals without the dust of binary fractions. */
function rounded(x: number): number {
  return Number(x.toPrecision(6));
}

/** A chart of lines. */
export function linesOf(
  points: readonly Point[],
  { series, marked = series.slice(0, 1).map(({ name }) => name), axis, last, scale }: {
    series: readonly LegendEntry[];
    /**
     * Lines with a mark at each point. Of the first alone unless given: its numbers were measured,
     * the others are there to compare.
     */
    marked?: readonly string[];
    axis: Axis;
    last: number;
    scale: "log" | "linear";
  },
): ChartSpec {
  const names = series.map(({ name }) => name);
  const byName = { field: "series", type: "nominal", legend: null } as const;
  const domain = names;
  const color = { ...byName, scale: { domain, range: series.map(({ color }) => color) } };
  const dashes = series.map(({ dash }) => [...dash ?? [1, 0]]);
  const strokeDash = { ...byName, scale: { domain, range: dashes } };
  return {
    data: { values: [...points] },
    encoding: {
      x: {
        field: "x",
        type: "quantitative",
        title: "layer",
        scale: { domain: [0, last], nice: false, padding: 6 },
        axis: { format: "d", tickMinStep: 1, tickCount: 6, grid: false },
      },
      y: {
        field: "y",
        type: "quantitative",
        title: null,
        scale: { type: scale, domain: [...axis.domain], nice: false },
        axis: { values: [...axis.values], labelExpr: PLAIN, labelOverlap: scale === "log" },
      },
    },
    layer: [
      { mark: { type: "line", strokeWidth: 1.5 }, encoding: { color, strokeDash } },
      {
        transform: [{ filter: { field: "series", oneOf: [...marked] } }],
        mark: { type: "point", filled: true, size: 14, opacity: 1 },
        encoding: { color },
      },
      {
        transform: [{ filter: { field: "fallback", equal: true } }],
        mark: { type: "point", shape: "cross", filled: true, size: 90, opacity: 1 },
        encoding: { color: { value: "var(--bad)" } },
      },
    ],
  };
}

/** What a line shows, in words. */
export function describe(name: string, points: readonly Point[]): string {
  const own = points.filter(({ series }) => series === name);
  if (own.length === 0) return `${name}: not measured.`;
  const most = own.reduce((a, b) => b.y > a.y ? b : a);
  const least = own.reduce((a, b) => b.y < a.y ? b : a);
  return `${name}: from ${short(least.y)} in layer ${least.x} to ${
    short(most.y)
  } in layer ${most.x}.`;
}
