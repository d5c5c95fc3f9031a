/**
 * The head of the page: what was made of what, how far it is from the original, what it took; and
 * what did not go as asked.
 */
import { energySentence, joules } from "../../plan/energy.ts";
import { confidenceSentence, limitSentence, limitWords } from "../certificate.ts";
import type { RecordedWindows } from "../record.ts";
import type { ReportDocument } from "../document.ts";
import { html, type Markup } from "./markup.ts";
import { change, count, duration, fixed, moment, short, size } from "./numbers.ts";

/** One number that matters, and what it is to be compared with. */
interface Tile {
  readonly label: string;
  readonly value: string;
  readonly note: string;
}

/** The section. */
export function summarySection(report: ReportDocument): Markup {
  const tiles = tilesOf(report).map(({ label, value, note }) =>
    html`
      <div class="tile">
        <dt>${label}</dt>
        <dd><strong>${value}</strong><span>${note}</span></dd>
      </div>
    `
  );
  return html`<section id="summary" aria-label="Summary">
<dl class="tiles">${tiles}</dl>
${attention(report)}
<h2>How it was made</h2>
<dl class="facts">${facts(report)}</dl>
${report.command !== null && html`<pre><code>${report.command}</code></pre>`}
</section>`;
}

function tilesOf(report: ReportDocument): Tile[] {
  const { perplexity, divergence } = report.scores;
  const { source_bytes: from, total_bytes: to, planned_memory: { peak: planned } } = report;
  const tiles: Tile[] = [];
  if (perplexity) {
    const { perplexity: after, original_perplexity: before } = perplexity;
    tiles.push({
      label: "Perplexity",
      value: fixed(after, 3),
      note: before === undefined
        ? ""
        : `before: ${fixed(before, 3)}, that is ${change(before, after!)}`,
    });
  }
  if (divergence) {
    tiles.push({
      label: "KL divergence from the original",
      value: short(divergence.mean),
      note: `± ${short(divergence.standard_error)} nats per token`,
    });
    tiles.push({
      label: "Same most likely token",
      value: `${fixed(divergence.same_top_percent, 2)} %`,
      note: "of all predictions",
    });
  }
  for (const found of report.certificate?.limits ?? []) {
    const { name, limit, bound, unit } = limitWords(found);
    tiles.push({
      label: found.holds ? `Guaranteed: ${name}` : `Not guaranteed: ${name}`,
      value: `${found.holds ? "below" : "not below"} ${bound}`,
      note: `${unit}: at most ${limit}, with ${100 * report.certificate!.confidence} % confidence`,
    });
  }
  tiles.push(
    { label: "Size", value: size(to), note: `${(to / from * 100).toFixed(1)} % of ${size(from)}` },
    {
      label: "Bits per weight",
      value: report.bits_per_weight.toFixed(3),
      note: `${count(report.quantized_weights)} weights, scales included`,
    },
    ...(report.energy
      ? [{
        label: "Energy of a token, estimated",
        value: joules(report.energy.quantized.memory_pj + report.energy.quantized.compute_pj),
        note: `before: ${
          joules(report.energy.original.memory_pj + report.energy.original.compute_pj)
        }`,
      }]
      : []),
    { label: "Time", value: duration(report.seconds), note: `on ${report.device.name}` },
    { label: "Most memory", value: size(report.peak_bytes), note: `planned: ${size(planned)}` },
  );
  return tiles;
}

/** What a reader must not miss. */
function attention({ fallbacks, warnings, scores, weights }: ReportDocument): Markup {
  const boxes: Markup[] = [];
  if (fallbacks.length > 0) {
    const why = (name: string) => weights.find((weight) => weight.name === name)?.fallback ?? "";
    boxes.push(html`
      <div class="box bad" role="note">
        <p><strong>Rounded to nearest instead: ${count(fallbacks.length)} of ${count(
          weights.length,
        )} weights.</strong> The method could not be used for them.</p>
        <ul>${fallbacks.map((name) => html`<li><code>${name}</code>: ${why(name)}</li>`)}</ul>
      </div>
    `);
  }
  const others = warnings.filter(({ code }) => code !== "fallback");
  if (others.length > 0) {
    boxes.push(html`
      <div class="box" role="note">
        <p><strong>Warnings of the run</strong></p>
        <ul>${others.map(({ message }) => html`<li>${message}</li>`)}</ul>
      </div>
    `);
  }
  if (Object.keys(scores).length === 0) {
    boxes.push(
      html`
        <div class="box" role="note">
          <p>How far the whole model is from the original was not measured: an evaluation does that (<code>evaluate</code>).</p>
        </div>
      `,
    );
  }
  return html`${boxes}`;
}

function facts(report: ReportDocument): Markup[] {
  const { model, calibration, evaluation, certificate, scores: { divergence } } = report;
  const list = (items: readonly { name: string; weights: number }[]) =>
    items.length === 1
      ? items[0]!.name
      : items.map(({ name, weights }) => `${name} (${count(weights)})`).join("; ");
  const rows: (readonly [name: string, value: string])[] = [
    ["Model", model.id ?? model.name],
    ...(model.type === null
      ? []
      : [["Architecture", `${model.type}, ${count(model.blocks ?? 0)} blocks`] as const]),
    ["Values", list(report.schemes)],
    ["Method", list(report.methods)],
    ["Format", report.format],
    ...(calibration ? [["Calibrated on", windows(calibration)] as const] : []),
    ...(calibration
      ? [
        [
          "Calibration",
          `on the hidden states of the ${
            report.calibrate_on === "float" ? "original" : "quantized"
          } model${
            report.propagate ? ", targets moved to make up for the error of earlier blocks" : ""
          }`,
        ] as const,
      ]
      : []),
    ...(evaluation ? [["Measured on", windows(evaluation)] as const] : []),
    ...(certificate
      ? [
        [
          certificate.holds ? "Guaranteed" : "Not guaranteed",
          `${certificate.limits.map(limitSentence).join("; ")} (${
            confidenceSentence(certificate)
          })`,
        ] as const,
        ["Judged on", windows(certificate.text)] as const,
      ]
      : []),
    ...(divergence
      ? [
        [
          "KL divergence, nats",
          `median ${short(divergence.median)}, 90 % of tokens below ${
            short(divergence.p90)
          }, 95 % ${short(divergence.p95)}, 99 % ${short(divergence.p99)}, 99.9 % ${
            short(divergence.p99_9)
          }, largest ${short(divergence.max)}`,
        ] as const,
      ]
      : []),
    ...(report.energy ? [["Energy, estimated", energySentence(report.energy)] as const] : []),
    ["Device", `${report.device.name}: ${report.device.description}`],
    [
      "Made by",
      report.created === null ? report.generator : `${report.generator}, ${moment(report.created)}`,
    ],
  ];
  return rows.map(([name, value]) =>
    html`
      <div>
        <dt>${name}</dt>
        <dd>${value}</dd>
      </div>
    `
  );
}

function windows({ corpus, windows, available, seq_len, tokens, seed }: RecordedWindows): string {
  const of = available === null ? "" : ` of ${count(available)}`;
  return [
    ...(corpus === null ? [] : [corpus]),
    `${count(windows)}${of} windows of ${count(seq_len)} tokens, ${count(tokens)} tokens`,
    ...(seed === null ? [] : [`drawn with seed ${seed}`]),
  ].join("; ");
}
