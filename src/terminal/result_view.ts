/**
 * Results as tables for a person: a finished run, scores, metrics, an inspection, a verification.
 */
import type { Score } from "../evaluator.ts";
import type { Inspection } from "../inspect.ts";
import { METRICS } from "../metrics/mod.ts";
import type { Plan } from "../plan/planned.ts";
import { confidenceSentence, limitSentence } from "../report/certificate.ts";
import type { Certificate, RecordedWindows, RunRecord } from "../report/record.ts";
import type { TensorReport } from "../report.ts";
import type { RunReport } from "../report/run_report.ts";
import { size } from "../size.ts";
import { addTraffic } from "../traffic.ts";
import type { VerifyReport } from "../verify.ts";
import { showLoaders } from "./plan_view.ts";
import { pairs, table } from "./table.ts";
import { count, duration, measured, plural, visible } from "./text.ts";

type Scores = Readonly<Record<string, Score>>;
type Row = readonly [name: string, value: string];

/** What came of a run. */
export function showRun(
  { output, plan, report, folder }: {
    /** Where it is, if it stays there. */
    output?: string;
    plan: Plan;
    report: RunReport;
    /** Where the report is. */
    folder?: string;
  },
): string {
  return [
    pairs([
      ...(output === undefined ? [] : [["output", visible(output)] as const]),
      ["size", `${size(plan.totalBytes)}, from ${size(plan.sourceBytes)}`],
      ["bits per weight", plan.bitsPerWeight.toFixed(3)],
      ...calibrationRows(report.tensors),
      ...scoreRows(report.scores),
      ...certificateRows(report.record.certificate),
      ["time", duration(report.seconds)],
      ["peak memory", memory(plan.memory.peak, report.peakBytes)],
      ...trafficRows(report),
      ...(folder === undefined ? [] : [["report", visible(folder)] as const]),
    ]),
    showLoaders(plan.loaders),
  ].join("\n");
}

/** How weights were calibrated, if any were: by what, on how much, and which could not be. */
function calibrationRows(tensors: readonly TensorReport[]): Row[] {
  const facts = tensors.flatMap(({ calibration }) => calibration ?? []);
  if (facts.length === 0) return [];
  const methods = [...new Set(facts.map(({ method }) => method))];
  const tokens = Math.max(...facts.map(({ tokens }) => tokens));
  const fallbacks = facts.filter(({ fallback }) => fallback !== undefined).length;
  return [[
    "calibrated",
    `${methods.join(", ")} on ${count(tokens)} tokens` +
    (fallbacks > 0 ? `; ${plural(fallbacks, "weight")} rounded to nearest instead` : ""),
  ]];
}

function memory(planned: number, peak: number): string {
  const seen = peak > 0 ? `${size(peak)} at most` : "not measured";
  return `${seen}, planned ${size(planned)}`;
}

/** What passed to and from a GPU. */
function trafficRows({ phases }: RunReport): Row[] {
  const all = Object.values(phases.total).flatMap(({ traffic }) => traffic ?? []);
  if (all.length === 0) return [];
  const { waits, dispatches, uploaded, downloaded } = all.reduce((a, b) => addTraffic(a, b));
  return [[
    "device",
    `${plural(waits, "wait")}, ${count(dispatches)} dispatches, ` +
    `${size(uploaded)} up, ${size(downloaded)} down`,
  ]];
}

/** Perplexity and divergence in words. */
export function scoreRows({ perplexity, divergence }: Scores): Row[] {
  const rows: Row[] = [];
  if (perplexity) {
    const { perplexity: after, original_perplexity: before } = perplexity;
    if (before === undefined) {
      rows.push(["perplexity", fixed(after)]);
    } else {
      rows.push(["perplexity before", fixed(before)]);
      rows.push(["perplexity after", `${fixed(after)}  (${change(before, after!)})`]);
    }
  }
  if (divergence) {
    const { mean, standard_error, p99, same_top_percent } = divergence;
    rows.push(
      [
        "KL divergence",
        `${nats(mean)} ± ${nats(standard_error)} nats per token, 99 % below ${nats(p99)}`,
      ],
      ["same top token", `${fixed(same_top_percent, 2)} %`],
    );
  }
  return rows;
}

/** What is promised, if anything is. */
export function certificateRows(certificate: Certificate | null, name?: string): Row[] {
  if (!certificate) return [];
  const { holds, limits } = certificate;
  return [
    [
      name ?? (holds ? "guaranteed" : "not guaranteed"),
      limits.map(limitSentence).join("; "),
    ],
    ["by", confidenceSentence(certificate)],
  ];
}

function fixed(x: number | undefined, digits = 4): string {
  return x === undefined ? "" : Number.isFinite(x) ? x.toFixed(digits) : measured(x);
}

function nats(x: number | undefined): string {
  return x === undefined ? "" : Number.isFinite(x) ? x.toPrecision(3) : measured(x);
}

function change(before: number, after: number): string {
  const percent = (after / before - 1) * 100;
  return `${percent >= 0 ? "+" : ""}${fixed(percent, 2)} %`;
}

/** Every quantized weight and its metrics as a table. */
export function showTensors(tensors: readonly TensorReport[]): string {
  const metrics = METRICS.filter(({ name }) => tensors.some((tensor) => name in tensor.metrics));
  return table(
    [
      { head: "WEIGHT" },
      { head: "SCHEME" },
      { head: "BITS", align: "right" },
      ...metrics.map(({ name }) => ({ head: name.toUpperCase(), align: "right" as const })),
    ],
    tensors.map((tensor) => [
      visible(tensor.name),
      tensor.scheme,
      tensor.bitsPerWeight.toFixed(3),
      ...metrics.map(({ name }) => measured(tensor.metrics[name] ?? NaN)),
    ]),
  );
}

/**
 * The same as CSV (RFC 4180), numbers in full. A name that a spreadsheet would run as a formula
 * gets an apostrophe.
 */
export async function tensorsCsv(tensors: readonly TensorReport[]): Promise<string> {
  const { stringify } = await import("csv-stringify/sync");
  return stringify(
    tensors.map(({ name, scheme, bitsPerWeight, metrics }) => [
      visible(name),
      scheme,
      String(bitsPerWeight),
      ...METRICS.map((metric) => String(metrics[metric.name] ?? "")),
    ]),
    {
      header: true,
      columns: ["weight", "scheme", "bits_per_weight", ...METRICS.map(({ name }) => name)],
      escape_formulas: true,
    },
  );
}

/** What a checkpoint is. */
export function showInspection(found: Inspection, record: RunRecord | undefined): string {
  const { quantization, dtypes, files, tensors } = found;
  return [
    pairs([
      ["checkpoint", visible(found.label)],
      ["container", found.container],
      [
        "model type",
        found.modelType === undefined
          ? "unknown: no config.json with a model_type"
          : `${visible(found.modelType)}, ${
            found.runs ? "which Sluice can evaluate" : "which Sluice does not evaluate"
          }`,
      ],
      [
        "elements",
        `${count(found.elements)} in ${plural(tensors.length, "tensor")}, ${size(found.bytes)}`,
      ],
      [
        "quantization",
        quantization
          ? `${visible(quantization.method)}${
            quantization.format ? "" : ", which Sluice does not read"
          }`
          : "none",
      ],
      ...(record ? recordRows(record) : []),
    ]),
    table(
      [
        { head: "DTYPE" },
        ...["TENSORS", "ELEMENTS", "SIZE"].map((head) => ({ head, align: "right" as const })),
      ],
      dtypes.map((
        { dtype, tensors, elements, bytes },
      ) => [dtype, count(tensors), count(elements), size(bytes)]),
    ),
    table(
      [{ head: "FILE" }, ...["TENSORS", "SIZE"].map((head) => ({ head, align: "right" as const }))],
      files.map((
        { path, tensors, bytes },
      ) => [visible(path), tensors ? count(tensors) : "", size(bytes)]),
    ),
    table(
      [{ head: "TENSOR" }, { head: "DTYPE" }, { head: "SHAPE" }, { head: "SIZE", align: "right" }],
      tensors.map((
        { name, dtype, shape, bytes },
      ) => [visible(name), dtype, `[${shape.join(", ")}]`, size(bytes)]),
    ),
  ].join("\n");
}

/** How a checkpoint was made, as its record tells. */
function recordRows(record: RunRecord): Row[] {
  const { generator, model, methods, calibration, evaluation, scores, fallbacks } = record;
  return [
    ["made by", `${visible(generator)}, of ${visible(model.id ?? model.name)}`],
    [
      "method",
      methods.map(({ name, weights }) => `${visible(name)} (${plural(weights, "weight")})`)
        .join(", ") +
      (fallbacks.length > 0
        ? `; ${plural(fallbacks.length, "weight")} rounded to nearest instead`
        : ""),
    ],
    ...(calibration ? [["calibrated on", windowsSentence(calibration)] as const] : []),
    ...(evaluation ? [["measured on", windowsSentence(evaluation)] as const] : []),
    ...scoreRows(scores),
    ...certificateRows(record.certificate),
  ];
}

/** `sample: 16 of 125 windows of 512 tokens, drawn with seed 7` */
function windowsSentence({ corpus, windows, available, seq_len, seed }: RecordedWindows): string {
  return (corpus === null ? "" : `${visible(corpus)}: `) +
    `${count(windows)}${available === null ? "" : ` of ${count(available)}`} windows of ` +
    `${count(seq_len)} tokens${seed === null ? "" : `, drawn with seed ${seed}`}`;
}

/** What a verification found. */
export function showVerification(report: VerifyReport, source: string | undefined): string {
  const { quantized, copied, smoothed, dropped, files, loaders } = report;
  const rows: Row[] = [
    ["checkpoint", visible(report.label)],
    ["format", report.format ?? "not quantized"],
    [
      "tensors",
      `${count(report.tensors)}, ${size(report.bytes)}; headers, offsets, sizes and index agree`,
    ],
    ["weights", `${plural(quantized.length, "weight")} unpacked; every scale is finite`],
  ];
  if (source !== undefined) {
    rows.push(
      [
        "source",
        `${visible(source)}: ${plural(copied, "tensor")} and ${
          plural(files.length, "file")
        } equal it`,
      ],
      ...(smoothed.length > 0
        ? [
          ["smoothed", `${plural(smoothed.length, "tensor")} took over scales of weights`] as const,
        ]
        : []),
      ...(dropped.length > 0 ? [["left out", dropped.map(visible).join(", ")] as const] : []),
    );
  }
  if (report.record) rows.push(...recordRows(report.record));
  return [
    pairs(rows),
    ...(source !== undefined && quantized.length > 0 ? [showTensors(quantized)] : []),
    showLoaders(loaders),
  ].join("\n");
}
