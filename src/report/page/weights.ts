/** Every weight: a table of its numbers, and pictures of its values and codes. */
import type { Distribution } from "../../metrics/distribution.ts";
import { METRICS } from "../../metrics/mod.ts";
import { measuredMetrics, type ReportDocument, type ReportWeight } from "../document.ts";
import { html, Markup } from "./markup.ts";
import { count, fixed, NONE, plain, short } from "./numbers.ts";

/** A column of the table. */
interface Column {
  readonly head: string;
  /** What it is, for a tooltip. */
  readonly help?: string;
  /** Sorted by, and shown as. */
  value(weight: ReportWeight): string | number | null;
  show?(value: number): string;
}

const ratio = (a: number | null, b: number | null) => a !== null && b ? a / b : null;

/** The columns after the name; those that have nothing to say for any weight are left out. */
function columnsOf(report: ReportDocument): Column[] {
  const metrics = METRICS.filter(({ name }) => measuredMetrics(report).includes(name));
  const columns: Column[] = [
    { head: "shape", value: ({ rows, columns }) => `${rows} × ${columns}` },
    { head: "values", value: ({ scheme }) => scheme },
    {
      head: "method",
      value: ({ method, fallback }) =>
        fallback === null ? method : `rounded to nearest: ${fallback}`,
    },
    { head: "bits", value: ({ bits_per_weight }) => bits_per_weight, show: (x) => fixed(x, 3) },
    {
      head: "output error",
      help: "tr(E·H·Eᵀ) / tr(W·H·Wᵀ)",
      value: ({ output_error }) => output_error,
    },
    ...metrics.map(({ name, unit, summary }): Column => ({
      head: headOf(name, unit),
      help: summary,
      value: ({ metrics }) => metrics[name] ?? null,
      show: (x) => unit === "dB" ? fixed(x, 2) : short(x, name === "cosine" ? 5 : 3),
    })),
    { head: "loss", help: "GPTQ: Σe²/2 per token", value: ({ loss }) => loss },
    {
      head: "loss / expected",
      value: ({ loss, expected_loss }) => ratio(loss, expected_loss),
      show: (x) => fixed(x, 2),
    },
    {
      head: "loss / bound",
      value: ({ loss, loss_bound }) => ratio(loss, loss_bound),
      show: (x) => fixed(x, 2),
    },
    { head: "damping", value: ({ damping }) => damping },
    { head: "strength", value: ({ strength }) => strength, show: (x) => fixed(x, 2) },
    { head: "tokens", value: ({ tokens }) => tokens, show: count },
  ];
  return columns.filter(({ value }) => report.weights.some((weight) => value(weight) !== null));
}

/** `sqnr_db` is SQNR in dB. */
function headOf(metric: string, unit: string): string {
  const name = metric.replace(/_db$/, "").replaceAll("_", " ");
  return `${/^\w{3,4}$/.test(name) ? name.toUpperCase() : name}${unit && ` ${unit}`}`;
}

/** The section of the table. What is the same for all is said before it. */
export function tableSection(report: ReportDocument): Markup {
  const [first, ...others] = report.weights;
  const isCommon = ({ value }: Column) =>
    first !== undefined && others.length > 0 &&
    others.every((weight) => value(weight) === value(first));
  const all = columnsOf(report);
  const columns = all.filter((column) => !isCommon(column));
  const common = all.filter(isCommon).map(({ head, value, show = plain }) => {
    const what = value(first!)!;
    return `${head} ${typeof what === "number" ? show(what) : what}`;
  });
  const textual = (column: Column) => first && typeof column.value(first) === "string";
  const head = columns.map((column) =>
    html`
      <th scope="col" ${textual(column)
        ? ""
        : new Markup(` class="n"`)}${column.help !== undefined && html`
        title="${column.help}"
      `}>${column.head}</th>
    `
  );
  const rows = report.weights.map((weight) =>
    html`
      <tr${weight.fallback !== null && new Markup(` class="bad"`)}><th scope="row">${weight
        .name}</th>${columns.map(({ value, show = short }) => cell(value(weight), show))}</tr>
    `
  );
  return html`
    <section id="weights">
      <h2>Every weight</h2>
      <p>${count(
        report.weights.length,
      )} quantized weights. <code>report.csv</code> has the same numbers in full.${common.length >
          0 && ` The same for all: ${common.join("; ")}.`}</p>
      <div class="scroll tall" tabindex="0" role="region" aria-label="Every weight">
        <table class="sortable">
          <thead>
            <tr><th scope="col">weight</th>${head}</tr>
          </thead>
          <tbody>${rows}</tbody>
        </table>
      </div>
    </section>
  `;
}

function cell(value: string | number | null, show: (x: number) => string): Markup {
  if (typeof value === "string") return html`<td>${value}</td>`;
  const shown = value === null ? NONE : show(value);
  // What is shown is rounded; rows are sorted by the number itself.
  return html`
    <td class="n" ${value !== null && html`
      data-v="${value.toPrecision(6)}"
    `}>${shown}</td>
  `;
}

/**
 * The section of distributions, a part that opens for each block; undefined when none were kept.
 */
export function distributionSection({ weights }: ReportDocument): Markup | undefined {
  const kept = weights.filter(({ distribution }) => distribution !== null);
  if (kept.length === 0) return undefined;
  const blocks = [...Map.groupBy(kept, ({ block }) => block)].map(([block, weights], i) =>
    html`
      <details${i === 0 && new Markup(" open")}>
        <summary>${block} <small>${count(weights.length)} ${weights.length === 1
          ? "weight"
          : "weights"}</small></summary>
        <div class="panels small">${weights.map(picture)}</div>
        </details>
    `
  );
  return html`<section id="distributions"><h2>Values and codes</h2>
<p>How often values occur, filled as they were, as a line as their codes stand for; heights are square roots, so that tails can be seen. Below, how often each code occurs. The counts are in <code>report.json</code>.</p>
${blocks}</section>`;
}

/** Height of a picture, and width of its bins, in units of its own. */
const HEIGHT = 40;
const MOST_CODES = 64;

function picture({ kind, distribution }: ReportWeight): Markup {
  const { low, high, before, after, codes } = distribution!;
  const most = Math.sqrt(Math.max(1, ...before, ...after));
  const roots = (counts: readonly number[]) => counts.map((n) => Math.sqrt(n) / most);
  const said = `Values from ${short(low)} to ${short(high)}.${codes ? ` ${saidOf(codes)}` : ""}`;
  return html`<figure><figcaption>${kind}</figcaption>
<svg class="dist" viewBox="0 0 ${before.length} ${HEIGHT}" preserveAspectRatio="none" role="img" aria-label="${said}"><path class="fill" d="${
    steps(roots(before))
  }"/><path class="line" d="${steps(roots(after))}"/></svg>
<div class="ends"><span>${short(low)}</span><span>0</span><span>${short(high)}</span></div>
${codes && codePicture(codes)}</figure>`;
}

/** Bars as one path of whole numbers, closed along the ground. */
function steps(heights: readonly number[]): string {
  let path = `M0 ${HEIGHT}`;
  let at = HEIGHT;
  heights.forEach((height, bin) => {
    const y = Math.round(HEIGHT * (1 - height));
    if (y !== at) path += `H${bin}V${y}`;
    at = y;
  });
  return `${path}H${heights.length}V${HEIGHT}`;
}

function codePicture({ first, counts }: NonNullable<Distribution["codes"]>): Markup {
  const width = Math.ceil(counts.length / MOST_CODES);
  const merged = Array.from(
    { length: Math.ceil(counts.length / width) },
    (_, i) => counts.slice(i * width, (i + 1) * width).reduce((a, b) => a + b, 0),
  );
  const most = Math.max(1, ...merged);
  const last = first + counts.length - 1;
  const gap = merged.length <= 16 ? 0.15 : 0;
  const bars = merged.map((n, i) => {
    const height = Math.round(HEIGHT * n / most);
    return height === 0 ? "" : `M${i + gap} ${HEIGHT}v-${height}h${1 - 2 * gap}v${height}`;
  });
  return html`
    <svg class="dist codes" viewBox="0 0 ${merged.length} ${HEIGHT}" preserveAspectRatio="none"
      aria-hidden="true">
      <path class="fill" d="${bars.join("")}" />
    </svg>
    <div class="ends"><span>code ${first}</span><span>${last}</span></div>
  `;
}

function saidOf({ first, counts }: NonNullable<Distribution["codes"]>): string {
  const most = counts.indexOf(Math.max(...counts));
  const all = counts.reduce((a, b) => a + b, 0);
  const unused = counts.filter((n) => n === 0).length;
  return `Codes from ${first} to ${first + counts.length - 1}, ${first + most} most often (${
    (counts[most]! / Math.max(1, all) * 100).toFixed(1)
  } %)${unused > 0 ? `, ${unused} never` : ""}.`;
}
