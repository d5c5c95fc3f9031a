/**
 * A program that runs one command line of Sluice and then prints, as the last line of standard
 * error, how many scripts of each package and of each folder of Sluice's own (`src/ops`) were loaded
 * on the way, as JSON.
 */
import { Session } from "node:inspector";
import { setTimeout } from "node:timers/promises";

/** A folder of src. */
const OWN = new RegExp(`^${RegExp.escape(new URL("../../", import.meta.url).href)}(src/[^/]+)/`);

const session = new Session();
session.connect();
const counts: Record<string, number> = {};
session.on("Debugger.scriptParsed", ({ params: { url } }) => {
  const [, name] = /\/npm\/[^/]+\/((?:@[^/]+\/)?[^/]+)\/\d/.exec(url) ??
    OWN.exec(url) ?? [];
  if (name !== undefined) counts[name] = (counts[name] ?? 0) + 1;
});
session.post("Debugger.enable");

const { denoHost, main } = await import("../../cli.ts");
const code = await main(Deno.args, denoHost(new AbortController().signal));
// The session hears of what was loaded last when the event loop turns.
await setTimeout();
await Deno.stderr.write(new TextEncoder().encode(`\n${JSON.stringify(counts)}`));
Deno.exit(code);
