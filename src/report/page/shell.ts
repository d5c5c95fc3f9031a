/**
 * What every page of Sluice has around its sections: a head, a list of sections, a foot. A page
 * needs nothing else: no network, and no script for what matters. A few lines of script let tables
 * be sorted; the page allows itself just those lines, so that nothing else could run even if it got
 * in.
 */
import { html, Markup, type Part } from "./markup.ts";
import script from "./script.js" with { type: "text" };
import style from "./style.css" with { type: "text" };

/** One section of a page; nothing where there is nothing to say. */
export interface Section {
  readonly id: string;
  readonly title: string;
  readonly section: Markup | undefined;
}

/** The colours of pages, as CSS variables of the root element, light and dark. */
export const COLORS: string = style.slice(0, style.indexOf("* {"));

/** The whole page. */
export async function pageOf(
  { title, kicker, name, subtitle, sections, footer }: {
    /** Of the window. */
    readonly title: string;
    /** What kind of page it is, above the name. */
    readonly kicker: string;
    readonly name: string;
    readonly subtitle: string;
    readonly sections: readonly Section[];
    readonly footer: Part;
  },
): Promise<string> {
  const shown = sections.filter(({ section }) => section);
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
          <p>${kicker}</p>
          <h1>${name}</h1>
          <p>${subtitle}</p>
        </header>
        <nav aria-label="Sections">
          <ul>${shown.map(({ id, title }) => html`<li><a href="#${id}">${title}</a></li>`)}</ul>
        </nav>
        <main>
    ${shown.map(({ section }) =>
      html`
        ${section}
      `
    )}</main>
        <footer>
          <p>${footer}</p>
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
