/** The report of a run as one page; shell.ts says what all pages have. */
import type { ReportDocument } from "../document.ts";
import { errorSection, lossSection, settingsSection } from "./errors.ts";
import { html } from "./markup.ts";
import { moment } from "./numbers.ts";
import { pageOf } from "./shell.ts";
import { summarySection } from "./summary.ts";
import { streamSection } from "./stream.ts";
import { timeSection } from "./time.ts";
import { distributionSection, tableSection } from "./weights.ts";

/** Make the page. */
export async function reportPage(report: ReportDocument): Promise<string> {
  const { model: { name }, schemes, format } = report;
  const more = schemes.length > 3 ? ` and ${schemes.length - 3} more` : "";
  return await pageOf({
    title: `${name}: ${schemes.map(({ name }) => name).slice(0, 2).join("; ")}`,
    kicker: "Report of a quantization by Sluice",
    name,
    subtitle: `${schemes.map(({ name }) => name).slice(0, 3).join("; ")}${more}, as ${format}`,
    sections: [
      { id: "summary", title: "Summary", section: summarySection(report) },
      { id: "errors", title: "Errors", section: await errorSection(report) },
      { id: "stream", title: "Residual stream", section: await streamSection(report) },
      { id: "loss", title: "Loss", section: await lossSection(report) },
      { id: "settings", title: "Damping and scales", section: await settingsSection(report) },
      { id: "time", title: "Time and memory", section: await timeSection(report) },
      { id: "weights", title: "Every weight", section: tableSection(report) },
      { id: "distributions", title: "Values and codes", section: distributionSection(report) },
    ],
    footer: html`${report.generator}${
      report.created !== null && `, ${moment(report.created)}`
    }. <code>report.json</code> beside this page has all numbers, <code>report.csv</code> those of the weights.`,
  });
}
