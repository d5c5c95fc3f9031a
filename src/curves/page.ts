/**
 * Curves as files: `curves.html` and `curves.svg` for people, `curves.csv` for spreadsheets,
 * `curves.json` for programs. Nothing is written here.
 */
import { CHART, type ChartSpec, drawChart, legend } from "../report/page/chart.ts";
import { html, type Markup } from "../report/page/markup.ts";
import { count, short } from "../report/page/numbers.ts";
import { pageOf } from "../report/page/shell.ts";
import { type Picture, sheet } from "../report/page/sheet.ts";
import { boundDb, type CurvePoint, type Curves } from "./measured.ts";
import { LINES } from "./schemes.ts";

/** The files, by name. */
export const CURVE_FILES = ["curves.json", "curves.csv", "curves.html", "curves.svg"] as const;

/** Colours of the lines, in their order, and that of Shannon's bound. */
const COLORS = [
  "var(--p1)",
  "var(--p7)",
  "var(--p3)",
  "var(--p4)",
  "var(--p5)",
  "var(--p2)",
  "var(--p6)",
  "var(--p8)",
  "var(--bad)",
];
const BOUND = { name: "Shannon’s bound", color: "var(--muted)" };

/** Bits on the axis. */
const BITS: readonly [number, number] = [1, 9];

/** The files of curves. */
export async function curveFiles(
  curves: Curves,
  { generator }: { readonly generator: string },
): Promise<Readonly<Record<typeof CURVE_FILES[number], string>>> {
  const pictures: Picture[] = [];
  for (const data of curves.data) {
    pictures.push({ title: data.name, chart: await drawCurves(curves, data) });
  }
  const levels = { title: "3 bits on the normal distribution", chart: await drawLevels(curves) };
  const lines = [
    ...LINES.map(({ name }, i) => ({ name, color: COLORS[i]! })),
    { ...BOUND, dash: [4, 3] as const },
  ];
  const steps = [
    { name: "uniform", color: COLORS[2]! },
    { name: "Lloyd-Max", color: COLORS[3]! },
  ];
  const { stringify } = await import("csv-stringify/sync");
  return {
    "curves.json": `${JSON.stringify({ version: 1, generator, ...jsonOf(curves) }, null, 1)}\n`,
    "curves.csv": stringify(
      curves.points.map(({ data, line, scheme, uniform, bits, distortion, sqnrDb }) => [
        ...[data, line, scheme].map((text) => text.replace(/^(?=[=+\-@])/, "'")),
        ...[uniform ? 1 : 0, bits, distortion, sqnrDb],
        boundDb(curves.data.find(({ name }) => name === data)!.bound, bits),
      ]),
      {
        header: true,
        columns: [
          ...["data", "line", "scheme", "uniform", "bits_per_weight", "distortion", "sqnr_db"],
          "shannon_bound_db",
        ],
      },
    ),
    "curves.svg": sheet({
      title: `Rate against distortion: ${curves.model}`,
      parts: [{ pictures, legend: lines }, { pictures: [levels], legend: steps }],
    }),
    "curves.html": await pageOf({
      title: `${curves.model}: rate against distortion`,
      kicker: "Rate and distortion, by Sluice",
      name: curves.model,
      subtitle: `${count(curves.data.filter(({ weight }) => weight).length)} weights and ${
        count(curves.data.filter(({ weight }) => !weight).length)
      } distributions, each in ${count(LINES.length)} kinds of scheme`,
      sections: [
        {
          id: "curves",
          title: "Curves",
          section: html`<section id="curves"><h2>Signal to noise by bits a weight</h2>
<p>Bits count scales, zero points and tables. Higher is better; 6.02 dB are one bit. Below the dashed line lies what a code can do: Shannon’s lower bound, 2<sup>−2R</sup> of the variance for the normal distribution, a little less for the others. For weights the line is that of a normal distribution of their variance, for comparison: rows of different size allow more.</p>
${legend(lines)}${figures(pictures)}</section>`,
        },
        {
          id: "levels",
          title: "Steps",
          section: html`<section id="levels"><h2>Uniform against non-uniform</h2>
<p>What comes out by what goes in, at 3 bits on the normal distribution. Uniform steps are equally wide, at the scale of least squared error; Lloyd-Max has narrow steps where there are many values.</p>
${legend(steps)}${figures([levels])}</section>`,
        },
        { id: "table", title: "Every point", section: tableOf(curves.points) },
      ],
      footer:
        html`${generator}. <code>curves.json</code> and <code>curves.csv</code> beside this page have the numbers, <code>curves.svg</code> the pictures.`,
    }),
  };
}

function jsonOf({ model, seed, data, points, levels }: Curves): Record<string, unknown> {
  return {
    model,
    seed,
    data,
    points: points.map(({ sqnrDb, bits, ...point }) => ({
      ...point,
      bits_per_weight: bits,
      sqnr_db: sqnrDb,
    })),
    levels: { uniform: levels.uniform, lloyd_max: levels.lloydMax },
  };
}

function figures(pictures: readonly Picture[]): Markup {
  return html`<div class="panels large">${
    pictures.map(({ title, chart }) =>
      html`<figure><figcaption>${title}</figcaption>${chart}</figure>`
    )
  }</div>`;
}

async function drawCurves(
  { points }: Curves,
  { name, bound }: Curves["data"][number],
): Promise<Markup> {
  const own = points.filter(({ data }) => data === name);
  const line = LINES.map(({ name }) => name);
  const names = [...line, BOUND.name];
  const rows = own.map(({ line, bits, sqnrDb }) => ({ line, bits, dB: sqnrDb }));
  const limit = BITS.map((bits) => ({
    line: BOUND.name,
    bits,
    dB: -10 * Math.log10(bound * 2 ** (-2 * bits)),
  }));
  const color = {
    field: "line",
    type: "nominal",
    legend: null,
    scale: { domain: names, range: [...COLORS, BOUND.color] },
  } as const;
  const spec: ChartSpec = {
    ...CHART,
    height: 240,
    data: { values: [...rows, ...limit] },
    encoding: {
      x: {
        field: "bits",
        type: "quantitative",
        title: "bits a weight",
        scale: { domain: [...BITS], nice: false },
        axis: { format: "d", tickCount: 8, grid: true },
      },
      y: {
        field: "dB",
        type: "quantitative",
        title: "SQNR, dB",
        scale: { domain: [0, 55], nice: false, clamp: false },
        axis: { tickCount: 6 },
      },
      color,
    },
    layer: [
      {
        transform: [{ filter: { field: "line", oneOf: line } }],
        mark: { type: "line", strokeWidth: 1.5, clip: true },
      },
      {
        transform: [{ filter: { field: "line", oneOf: line } }],
        mark: { type: "point", filled: true, size: 22, opacity: 1, clip: true },
      },
      {
        transform: [{ filter: { field: "line", equal: BOUND.name } }],
        mark: { type: "line", strokeWidth: 1.5, strokeDash: [4, 3], clip: true },
      },
    ],
  };
  const best = own.filter(({ bits }) => bits < 5).sort((a, b) => b.sqnrDb - a.sqnrDb)[0];
  return await drawChart(spec, {
    title: `Signal to noise of ${name} by bits a weight`,
    description: best
      ? `Below 5 bits the best is ${best.scheme}: ${short(best.sqnrDb)} dB at ${
        short(best.bits)
      } bits.`
      : "Nothing was measured.",
  });
}

/** How far the staircase reaches, in standard deviations. */
const REACH = 3.5;

async function drawLevels({ levels }: Curves): Promise<Markup> {
  const rows = Object.entries({ "uniform": levels.uniform, "Lloyd-Max": levels.lloydMax })
    .flatMap(([kind, values]) => [
      { kind, x: -REACH, y: values[0]! },
      ...values.slice(1).map((y, i) => ({ kind, x: (y + values[i]!) / 2, y })),
      { kind, x: REACH, y: values.at(-1)! },
    ]);
  const spec: ChartSpec = {
    ...CHART,
    height: 240,
    data: { values: rows },
    encoding: {
      x: {
        field: "x",
        type: "quantitative",
        title: "value",
        scale: { domain: [-REACH, REACH], nice: false },
      },
      y: {
        field: "y",
        type: "quantitative",
        title: "level",
        scale: { domain: [-REACH, REACH], nice: false },
      },
    },
    layer: [
      {
        data: { values: [-REACH, REACH].map((x) => ({ x, y: x })) },
        mark: { type: "line", strokeWidth: 1, strokeDash: [2, 3] },
        encoding: { color: { value: "var(--muted)" } },
      },
      {
        mark: { type: "line", strokeWidth: 1.5, interpolate: "step-after" },
        encoding: {
          color: {
            field: "kind",
            type: "nominal",
            legend: null,
            scale: { domain: ["uniform", "Lloyd-Max"], range: [COLORS[2]!, COLORS[3]!] },
          },
        },
      },
    ],
  };
  return await drawChart(spec, {
    title: "Levels of 3 bits on the normal distribution",
    description: Object.entries(levels).map(([kind, values]) =>
      `${kind}: ${values.map((value) => short(value)).join(", ")}.`
    ).join(" "),
  });
}

function tableOf(points: readonly CurvePoint[]): Markup {
  const rows = points.map(({ data, scheme, bits, distortion, sqnrDb }) =>
    html`
      <tr>
        <th scope="row">${data}</th>
        <td>${scheme}</td>
        <td class="n">${bits.toFixed(3)}</td>
        <td class="n">${short(distortion)}</td>
        <td class="n">${sqnrDb.toFixed(2)}</td>
      </tr>
    `
  );
  return html`
    <section id="table">
      <h2>Every point</h2>
      <div class="scroll tall">
        <table>
          <thead>
            <tr>
              <th>Data</th>
              <th>Scheme</th>
              <th class="n">Bits</th>
              <th class="n">Distortion</th>
              <th class="n">SQNR, dB</th>
            </tr>
          </thead>
          <tbody>${rows}</tbody>
        </table>
      </div>
    </section>
  `;
}
