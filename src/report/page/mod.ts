/**
 * The report as one page that needs nothing else: no network, and no script for what matters.
 * Pictures are drawn as SVG; a few lines of script let the table be sorted. The page allows itself
 * just those lines, so that nothing else could run even if it got in.
 */
import type { ReportDocument } from "../document.ts";
import { errorSection, lossSection, settingsSection } from "./errors.ts";
import { html, Markup } from "./markup.ts";
import { moment } from "./numbers.ts";
import script from "./script.js" with { type: "text" };
import style from "./style.css" with { type: "text" };
import { summarySection } from "./summary.ts";
import { timeSection } from "./time.ts";
import { distributionSection, tableSection } from "./weights.ts";

/** Make the page. */
export async function reportPage(report: ReportDocument): Promise<string> {
  const sections: readonly (readonly [id: string, title: string, section: Markup | undefined])[] = [
    ["summary", "Summary", summarySection(report)],
    ["errors", "Errors", await errorSection(report)],
    ["loss", "Loss", await lossSection(report)],
    ["settings", "Damping and scales", await settingsSection(report)],
    ["time", "Time and memory", await timeSection(report)],
    ["weights", "Every weight", tableSection(report)],
    ["distributions", "Values and codes", distributionSection(report)],
  ];
  const shown = sections.filter(([, , section]) => section);
  const { model: { name }, schemes, format } = report;
  const title = `${name}: ${schemes.map(({ name }) => name).slice(0, 2).join("; ")}`;
  const page = html`
    <!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <meta http-equiv="Content-Security-Policy" content="${await policy()}">
        <meta name="referrer" content="no-referrer">
        <title>${title}</title>
        <style>
    ${new Markup(style)}</style>
      </head>
      <body>
        <header>
          <p>Report of a quantization by Sluice</p>
          <h1>${name}</h1>
          <p>${schemes.map(({ name }) => name).slice(0, 3).join("; ")}${schemes.length > 3
            ? ` and ${schemes.length - 3} more`
            : ""}, as ${format}</p>
        </header>
        <nav aria-label="Sections">
          <ul>${shown.map(([id, title]) => html`<li><a href="#${id}">${title}</a></li>`)}</ul>
        </nav>
        <main>
    ${shown.map(([, , section]) =>
      html`
        ${section}
      `
    )}</main>
        <footer>
          <p>${report.generator}${report.created !== null &&
            `, ${
              moment(report.created)
            }`}. <code>report.json</code> beside this page has all numbers, <code>report.csv</code> those of the weights.</p>
        </footer>
        <script>${new Markup(script)}</script>
      </body>
    </html>
  `;
  return page.text.trimStart();
}

async function policy(): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(script));
  const hash = new Uint8Array(digest).toBase64();
  return `default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-${hash}'; base-uri 'none'; form-action 'none'`;
}
