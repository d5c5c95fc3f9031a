/**
 * Granularities as files: `granularity.html` and `granularity.svg` for people, `granularity.csv` for
 * spreadsheets, `granularity.json` for programs. Nothing is written here.
 */
import { plainNumbers } from "../json.ts";
import { CHART, type ChartSpec, drawChart, PLAIN } from "../report/page/chart.ts";
import { axisOf } from "../report/page/by_depth.ts";
import { html, type Markup } from "../report/page/markup.ts";
import { duration, fixed, short } from "../report/page/numbers.ts";
import { pageOf } from "../report/page/shell.ts";
import { type Picture, sheet } from "../report/page/sheet.ts";
import type { RecordedWindows } from "../report/record.ts";
import type { Granularities, GranularityRow } from "./measured.ts";

/** The files, by name. */
export const GRANULARITY_FILES = [
  "granularity.json",
  "granularity.csv",
  "granularity.html",
  "granularity.svg",
] as const;

/** The files of granularities. */
export async function granularityFiles(
  found: Granularities,
  { generator, evaluation }: {
    readonly generator: string;
    /** The text it was measured on. */
    readonly evaluation: RecordedWindows;
  },
): Promise<Readonly<Record<typeof GRANULARITY_FILES[number], string>>> {
  const { model, bits, rows, refused, perplexity } = found;
  const pictures: Picture[] = [
    {
      title: "KL divergence from the original, nats a token",
      chart: await draw(rows, { value: ({ divergence }) => divergence, scale: "log" }),
    },
    {
      title: "SQNR of the weights, dB",
      chart: await draw(rows, { value: ({ sqnrDb }) => sqnrDb, scale: "linear" }),
    },
    {
      title: "Bits a weight",
      chart: await draw(rows, { value: ({ bits }) => bits, scale: "linear" }),
    },
  ];
  const document = { version: 1, generator, evaluation, ...granularityDocument(found) };
  const { stringify } = await import("csv-stringify/sync");
  return {
    "granularity.json": `${JSON.stringify(document, plainNumbers, 1)}\n`,
    "granularity.csv": stringify(rows.map(documentOf), { header: true }),
    "granularity.svg": sheet({
      title: `int${bits} by granularity: ${model}`,
      parts: [{ pictures, legend: [] }],
    }),
    "granularity.html": await pageOf({
      title: `${model}: granularity`,
      kicker: "Granularity, by Sluice",
      name: model,
      subtitle: `int${bits}, symmetric, rounded to nearest: how many weights share a scale`,
      sections: [
        {
          id: "pictures",
          title: "Pictures",
          section: html`
            <section id="pictures">
              <h2>What a scale for fewer weights brings</h2>
              <p>More scales take more bits and lose less. A scale per column follows the inputs, one per row the outputs; a block lies across both.</p>
              <div class="panels large">${pictures.map(({ title, chart }) =>
                html`<figure><figcaption>${title}</figcaption>${chart}</figure>`
              )}</div>
            </section>
          `,
        },
        {
          id: "table",
          title: "Table",
          section: html`<section id="table"><h2>Every granularity</h2>
<p>The original’s perplexity is ${fixed(perplexity, 3)}.</p>
<div class="scroll"><table><thead><tr><th>Scales</th><th class="n">Bits</th><th class="n">SQNR, dB</th><th class="n">Perplexity</th><th class="n">KL, nats</th><th class="n">Time</th></tr></thead>
<tbody>${rows.map(rowOf)}</tbody></table></div>
${
            refused.length > 0 &&
            html`
              <p>Left out:</p>
              <ul>${refused.map(({ name, why }) => html`<li>${name}: ${why}</li>`)}</ul>
            `
          }</section>`,
        },
      ],
      footer:
        html`${generator}. <code>granularity.json</code> and <code>granularity.csv</code> beside this page have the numbers, <code>granularity.svg</code> the pictures.`,
    }),
  };
}

/** Granularities as JSON has them, in a file and on standard output. */
export function granularityDocument(
  { model, bits, rows, refused, perplexity }: Granularities,
): Readonly<Record<string, unknown>> {
  return {
    model,
    bits,
    original_perplexity: perplexity,
    rows: rows.map(documentOf),
    refused,
  };
}

function documentOf(row: GranularityRow): Record<string, string | number> {
  return {
    granularity: row.name,
    bits_per_weight: row.bits,
    sqnr_db: row.sqnrDb,
    perplexity: row.perplexity,
    kl_divergence: row.divergence,
    kl_standard_error: row.divergenceError,
    seconds: row.seconds,
  };
}

function rowOf(row: GranularityRow): Markup {
  const { name, bits, sqnrDb, perplexity, divergence, divergenceError, seconds } = row;
  return html`
    <tr>
      <th scope="row">${name}</th>
      <td class="n">${bits.toFixed(3)}</td>
      <td class="n">${sqnrDb.toFixed(2)}</td>
      <td class="n">${fixed(perplexity, 3)}</td>
      <td class="n">${short(divergence)} ± ${short(divergenceError, 2)}</td>
      <td class="n">${duration(seconds)}</td>
    </tr>
  `;
}

/** A bar for each granularity; a dot where the axis is logarithmic and has no 0. */
async function draw(
  rows: readonly GranularityRow[],
  { value, scale }: {
    readonly value: (row: GranularityRow) => number;
    readonly scale: "log" | "linear";
  },
): Promise<Markup> {
  const values = rows.map((row) => ({ name: row.name, value: value(row) }))
    .filter(({ value }) => Number.isFinite(value) && value > 0);
  const axis = axisOf(values.map(({ value }) => value), scale);
  const spec: ChartSpec = {
    ...CHART,
    height: 26 * rows.length + 30,
    data: { values },
    encoding: {
      y: {
        field: "name",
        type: "nominal",
        sort: rows.map(({ name }) => name),
        title: null,
        axis: { grid: false },
      },
      x: {
        field: "value",
        type: "quantitative",
        title: null,
        scale: { type: scale, domain: [...axis.domain], nice: false },
        axis: { values: [...axis.values], labelExpr: PLAIN, labelOverlap: "greedy" },
      },
    },
    layer: [
      scale === "linear"
        ? { mark: { type: "bar", height: 12, color: "var(--p1)" } }
        : { mark: { type: "point", filled: true, size: 60, opacity: 1, color: "var(--p1)" } },
    ],
  };
  return await drawChart(spec, {
    title: "By granularity",
    description: values.map(({ name, value }) => `${name}: ${short(value)}.`).join(" "),
  });
}
