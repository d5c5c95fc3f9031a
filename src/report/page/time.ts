/** Where time and memory went: by phase, by block, and when bytes came in and went out. */
import { type Phase, PHASES } from "../../trace.ts";
import type { ReportDocument } from "../document.ts";
import { axisOf } from "./by_depth.ts";
import { CHART, type ChartSpec, drawChart, PLAIN } from "./chart.ts";
import { html, type Markup } from "./markup.ts";
import { count, duration, NONE, size } from "./numbers.ts";

const SAYS: Readonly<Record<Phase, string>> = {
  load: "waiting for tensors, bringing them to the device",
  walk: "windows of the calibration on their way, being observed",
  solve: "factors, and targets of error propagation",
  scales: "searching scales to move",
  round: "choosing codes",
  tune: "training codes and scales by what comes out of the block",
  measure: "errors and distributions, for this report",
  pack: "codes into files’ bytes",
  write: "waiting for the disk",
  evaluate: "windows of the evaluation, in both models",
  other: "all the rest",
};

const COLOR = (phase: Phase) => `var(--p${PHASES.indexOf(phase)})`;

/** The section. */
export async function timeSection(report: ReportDocument): Promise<Markup> {
  const { device, planned_memory: planned, peak_bytes, seconds } = report;
  const queued = device.name === "webgpu" &&
    html`
      On a GPU work is queued, and its time is that of the phase that waits for it next; its own
      memory is planned, but not part of the process.
    `;
  const parts = (
    [
      ["runtime", planned.base],
      ["largest slice", planned.slice],
      ["a block’s weights", planned.weights],
      ["calibration of a block", planned.calibration],
      ["activations", planned.activations],
      ["hidden states", planned.states],
    ] as const
  ).filter(([, bytes]) => bytes > 0).map(([name, bytes]) => `${name} ${size(bytes)}`);
  const figures = [
    await byBlock(report),
    await memoryByBlock(report),
    ...await timeline(report),
  ];
  return html`
    <section id="time">
      <h2>Time and memory</h2>
      <p>${duration(
        seconds,
      )} in all. Reading ahead and writing behind go on meanwhile: of them, only waiting counts.${queued}</p>
      <div class="scroll" tabindex="0" role="region" aria-label="Phases of the run">
        <table class="phases">
          <thead>
            <tr>
              <th scope="col">Phase</th>
              <th scope="col" class="n">Time</th>
              <th scope="col" class="wide">Share</th>
              <th scope="col" class="n">Most memory</th>
              <th scope="col" class="n">Planned</th>
            </tr>
          </thead>
          <tbody>${phaseRows(report)}</tbody>
        </table>
      </div>
      ${trafficTable(report)}
      <p>Resident memory: ${peak_bytes > 0
        ? `${size(peak_bytes)} at most`
        : "not sampled"}, planned ${size(planned.peak)} (${parts.join(
          ", ",
        )}; not all of it at once).</p>
      <div class="panels large">${figures}</div>
    </section>
  `;
}

function phaseRows({ phases, seconds: all }: ReportDocument): Markup[] {
  return phases.map(({ phase, seconds, peak_bytes, planned_bytes }) => {
    const share = all > 0 ? seconds / all * 100 : 0;
    return html`
      <tr>
        <th
          scope="row"><span class="swatch" style="background:${COLOR(
            phase,
          )}"></span>${phase}<small>${SAYS[phase]}</small></th>
        <td class="n">${duration(seconds)}</td>
        <td
          class="wide"><span class="bar" style="width:${share.toFixed(1)}%;background:${COLOR(
            phase,
          )}"></span>${share.toFixed(1)} %</td>
        <td class="n">${size(peak_bytes)}</td>
        <td class="n">${phase === "other" ? NONE : size(planned_bytes)}</td>
      </tr>
    `;
  });
}

/** What passed to and from a GPU, by phase. */
function trafficTable({ phases }: ReportDocument): Markup | undefined {
  const rows = phases.flatMap(({ phase, traffic }) =>
    traffic
      ? [html`
        <tr>
          <th scope="row">${phase}</th>
          <td class="n">${count(traffic.dispatches)}</td>
          <td class="n">${count(traffic.submits)}</td>
          <td class="n">${count(traffic.waits)}</td>
          <td class="n">${count(traffic.reads)}</td>
          <td class="n">${size(traffic.uploaded)}</td>
          <td class="n">${size(traffic.downloaded)}</td>
        </tr>
      `]
      : []
  );
  if (rows.length === 0) return undefined;
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label="To and from the device">
      <table>
        <thead>
          <tr>
            <th scope="col">Phase</th>
            <th scope="col" class="n">Dispatches</th>
            <th scope="col" class="n">Batches</th>
            <th scope="col" class="n">Waits</th>
            <th scope="col" class="n">of them reads</th>
            <th scope="col" class="n">To the device</th>
            <th scope="col" class="n">Back</th>
          </tr>
        </thead>
        <tbody>${rows}</tbody>
      </table>
    </div>
  `;
}

async function figure(
  title: string,
  spec: ChartSpec,
  description: string,
): Promise<Markup> {
  return html`<figure><figcaption>${title}</figcaption>${await drawChart(spec, {
    title,
    description,
  })}</figure>`;
}

type Blocks = ReportDocument["blocks"];

/** Blocks that are layers, by number; all of them where none is. */
function layersOf(blocks: Blocks): { readonly layer: number; readonly block: Blocks[number] }[] {
  const numbered = blocks.flatMap((block) => {
    const number = /\.(\d{1,9})$/.exec(block.name)?.[1];
    return number === undefined ? [] : [{ layer: Number(number), block }];
  });
  return numbered.length > 0 ? numbered : blocks.map((block, layer) => ({ layer, block }));
}

async function byBlock({ blocks, phases }: ReportDocument): Promise<Markup> {
  const layers = layersOf(blocks);
  const shown = phases.map(({ phase }) => phase);
  const values = layers.flatMap(({ layer, block: { seconds } }) =>
    shown.map((phase, rank) => ({ layer, phase, rank, seconds: seconds[phase] ?? 0 }))
  );
  const total = layers.map(({ block: { seconds } }) =>
    Object.values(seconds).reduce((a, b) => a + b, 0)
  );
  const most = total.indexOf(Math.max(...total));
  return await figure(
    "Seconds of each layer, by phase",
    {
      ...CHART,
      data: { values },
      layer: [{
        mark: { type: "bar", width: { band: 0.85 } },
        encoding: {
          x: { ...LAYER, axis: sparse(layers.length) },
          y: {
            field: "seconds",
            type: "quantitative",
            title: null,
            axis: { tickCount: 5, labelExpr: PLAIN },
          },
          color: {
            field: "phase",
            type: "nominal",
            scale: { domain: shown, range: shown.map(COLOR) },
            legend: null,
          },
          order: { field: "rank", type: "quantitative" },
        },
      }],
    },
    `The longest is layer ${layers[most]?.layer}, ${duration(total[most] ?? 0)}.`,
  );
}

const LAYER = { field: "layer", type: "ordinal", title: "layer" } as const;

/** Labels of some of `count` layers. */
function sparse(count: number): { labelAngle: 0; values: number[] } {
  const step = [1, 2, 5, 10, 20, 50, 100].find((step) => count / step <= 10) ?? 200;
  return {
    labelAngle: 0,
    values: Array.from({ length: Math.ceil(count / step) }, (_, i) => i * step),
  };
}

async function memoryByBlock(
  { blocks, planned_memory: { peak }, peak_bytes }: ReportDocument,
): Promise<Markup | undefined> {
  if (peak_bytes === 0) return undefined;
  const layers = layersOf(blocks);
  const values = layers.map(({ layer, block }) => ({ layer, mb: block.peak_bytes / 1e6 }));
  const { domain, values: ticks } = axisOf([...values.map(({ mb }) => mb), peak / 1e6], "linear");
  return await figure("Resident memory in each layer, MB, and the planned peak", {
    ...CHART,
    encoding: {
      y: {
        field: "mb",
        type: "quantitative",
        title: null,
        scale: { domain: [...domain], nice: false },
        axis: { values: [...ticks], labelExpr: PLAIN, labelOverlap: false },
      },
    },
    layer: [
      {
        data: { values },
        mark: { type: "bar", width: { band: 0.85 }, color: "var(--one)" },
        encoding: { x: { ...LAYER, axis: sparse(layers.length) } },
      },
      {
        data: { values: [{ mb: peak / 1e6 }] },
        mark: { type: "rule", color: "var(--bad)", strokeDash: [4, 3], strokeWidth: 1.5 },
      },
    ],
  }, `At most ${size(peak_bytes)}; planned ${size(peak)}.`);
}

async function timeline({ timeline }: ReportDocument): Promise<Markup[]> {
  const { step, read, write, compute } = timeline;
  const shown = [
    ["Read, MB/s", read, 1e-6 / step],
    ["Device busy, %", compute, 100 / step],
    ["Written, MB/s", write, 1e-6 / step],
  ] as const;
  const figures = [];
  for (const [title, parts, scale] of shown) {
    const values = parts.map((part, i) => ({ from: i * step, value: part * scale }));
    const most = Math.max(0, ...values.map(({ value }) => value));
    const axis = axisOf([most || 1], "linear");
    figures.push(
      await figure(title, {
        ...CHART,
        height: 110,
        data: { values },
        layer: [{
          mark: { type: "area", interpolate: "step-after", color: "var(--one)" },
          encoding: {
            x: {
              field: "from",
              type: "quantitative",
              title: "seconds",
              scale: { nice: false },
              axis: { grid: false, tickCount: 6, labelExpr: PLAIN },
            },
            y: {
              field: "value",
              type: "quantitative",
              title: null,
              scale: { domain: [...axis.domain], nice: false },
              axis: { values: [...axis.values], labelExpr: PLAIN, labelOverlap: false },
            },
          },
        }],
      }, `At most ${most.toPrecision(3)}.`),
    );
  }
  return figures;
}
