/**
 * A run's report as three files: `report.json` for programs, `report.csv` for spreadsheets,
 * `report.html` for people. Nothing is written here.
 */
import { escapeControls } from "../errors.ts";
import { plainNumbers } from "../json.ts";
import { METRICS } from "../metrics/mod.ts";
import type { Plan } from "../plan/planned.ts";
import { type ReportDocument, reportDocument } from "./document.ts";
import { reportPage } from "./page/mod.ts";
import type { RunReport } from "./run_report.ts";

/** The files of a report, by name. */
export const REPORT_FILES = ["report.json", "report.csv", "report.html"] as const;

/** Texts by file name. */
export type ReportFiles = Readonly<Record<typeof REPORT_FILES[number], string>>;

/**
 * Make the report of a run. Give `run` the options `metrics` and `distributions`, else there is
 * little to tell.
 *
 * @param options.created When it is made, as ISO 8601 has it.
 */
export async function makeReport(
  plan: Plan,
  run: RunReport,
  { created }: { readonly created?: string } = {},
): Promise<ReportFiles> {
  const document = reportDocument(plan, run, created);
  return {
    "report.json": reportJson(document),
    "report.csv": await reportCsv(document),
    "report.html": await reportPage(document),
  };
}

/**
 * A line for each entry, and for each item of the long lists; infinities and NaN, which JSON has no
 * word for, are text.
 */
export function reportJson(document: ReportDocument): string {
  const json = (value: unknown) => JSON.stringify(value, plainNumbers);
  const lines = Object.entries(document).map(([key, value]) => {
    const listed = Array.isArray(value) && value.some((item) => typeof item === "object");
    const items: readonly unknown[] = listed ? value : [];
    const text = listed ? `[\n    ${items.map(json).join(",\n    ")}\n  ]` : json(value);
    return `  ${JSON.stringify(key)}: ${text}`;
  });
  return `{\n${lines.join(",\n")}\n}\n`;
}

/**
 * A row for each weight (RFC 4180), numbers in full. A name that a spreadsheet would run as a
 * formula gets an apostrophe.
 */
export async function reportCsv({ weights }: ReportDocument): Promise<string> {
  const { stringify } = await import("csv-stringify/sync");
  const rows = weights.map(({ distribution: _, metrics, name, ...weight }) => {
    const cells: Readonly<Record<string, unknown>> = { weight: name, ...weight, ...metrics };
    return CSV_COLUMNS.map((column) => csvCell(cells[column]));
  });
  return stringify(rows, { header: true, columns: [...CSV_COLUMNS] });
}

function csvCell(value: unknown): string {
  if (typeof value !== "string") return String(value ?? "");
  // What csv-stringify calls `escape_formulas`, which would have numbers below 0 as text.
  return escapeControls(value).replace(/^(?=[=+\-@\uff1d\uff0b\uff0d\uff20])/, "'");
}

/** The columns of `report.csv`, in order. */
export const CSV_COLUMNS: readonly string[] = [
  ...["weight", "block", "depth", "kind", "rows", "columns", "scheme", "bits", "group_size"],
  ...["method", "fallback", "bits_per_weight", "source_bytes", "stored_bytes"],
  ...METRICS.map(({ name }) => name),
  ...[
    "output_error",
    "loss",
    "expected_loss",
    "loss_bound",
    "block_error_before",
    "block_error",
    "damping",
    "strength",
    "input_scale",
    "tokens",
  ],
];
