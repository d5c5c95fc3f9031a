/** How a command's events are shown: the flags that say it, and the views that are made of them. */
import type { Event, Reporter } from "../../report.ts";
import type { Flag, Host, ParsedArguments } from "../command.ts";
import { withFlags } from "../option_words.ts";
import { allViews, barView, describe, jsonView, lineView, logView } from "../progress.ts";

const GROUP = "Messages";

/** Results as JSON. */
export const JSON_FLAG: Flag = {
  name: "json",
  type: "boolean",
  help: "print JSON on standard output",
  default: false,
  group: GROUP,
};

/** How events are shown. */
export const MESSAGE_FLAGS: readonly Flag[] = [
  { ...JSON_FLAG, help: "print events and results as lines of JSON on standard output" },
  {
    name: "quiet",
    type: "boolean",
    help: "no progress, no messages but errors",
    default: false,
    group: GROUP,
  },
  {
    name: "log-file",
    type: "string",
    placeholder: "file",
    path: true,
    writes: true,
    help: "append every event to a file, as lines with the time",
    group: GROUP,
  },
];

/** A warning, as a result holds it. */
export type Warning = Pick<Extract<Event, { type: "warning" }>, "code" | "message">;

/** Everything that watches a command, as one; it is done with when disposed of. */
export interface Watch extends Disposable {
  readonly report: Reporter;
  /** The warnings so far, in the library's words. */
  readonly warnings: readonly Warning[];
}

/**
 * The views that the flags ask for.
 *
 * @throws {SpaceError} the log cannot be written to.
 */
export function openViews(parsed: ParsedArguments, host: Host): Watch {
  const log = parsed.get("log-file");
  const views = allViews([
    ...(parsed.get("json") ? [jsonView(host.out)] : []),
    ...(log === undefined ? [] : [logView(host.openLog(String(log)))]),
    ...(parsed.get("quiet")
      ? []
      : [host.err.isTerminal ? barView(host.err, host) : lineView(host.err)]),
  ]);
  const warnings: Warning[] = [];
  return {
    warnings,
    report(event) {
      if (event.type === "warning") warnings.push({ code: event.code, message: event.message });
      views.report(inFlags(event, parsed));
    },
    [Symbol.dispose]: () => views[Symbol.dispose](),
  };
}

/**
 * The same for a command that begins: it hears, too, what killed runs have left in the system's
 * temporary folder.
 *
 * @throws {SpaceError} the log cannot be written to.
 */
export async function beginViews(parsed: ParsedArguments, host: Host): Promise<Watch> {
  const views = openViews(parsed, host);
  try {
    await host.sweepTemporary(views.report);
  } catch (error) {
    views[Symbol.dispose]();
    throw error;
  }
  return views;
}

/** Shows warnings alone: for commands that print one result. */
export function warningsTo(
  host: Host,
  parsed: ParsedArguments,
): Pick<Watch, "report" | "warnings"> {
  const warnings: Warning[] = [];
  return {
    warnings,
    report(event) {
      if (event.type !== "warning") return;
      warnings.push({ code: event.code, message: event.message });
      host.err.write(`sluice: ${describe(inFlags(event, parsed))}\n`);
    },
  };
}

/** An event whose message names flags of the command. */
function inFlags<E extends Event>(event: E, parsed: ParsedArguments): E {
  return event.type === "warning"
    ? { ...event, message: withFlags(event.message, parsed.knows) }
    : event;
}

/** Warnings as a result has them. */
export function shownWarnings(warnings: readonly Warning[], parsed: ParsedArguments): Warning[] {
  return warnings.map(({ code, message }) => ({ code, message: withFlags(message, parsed.knows) }));
}
