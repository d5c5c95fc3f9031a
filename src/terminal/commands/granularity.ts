/** `sluice granularity`: what a scale for fewer weights brings, on a model of one's own. */
import type { Command, Host, ParsedArguments } from "../command.ts";
import { granularity, granularityModel } from "../../granularity.ts";
import type { Granularities } from "../../granularity/measured.ts";
import {
  GRANULARITY_FILES,
  granularityDocument,
  granularityFiles,
} from "../../granularity/page.ts";
import { requestOf } from "../../plan/planned.ts";
import { recordedWindows } from "../../report/record.ts";
import { jsonLine } from "../json.ts";
import { askedReportFolder } from "../report_folder.ts";
import { table } from "../table.ts";
import { duration, visibleMessage } from "../text.ts";
import {
  CORPUS_FLAGS,
  corpusSentence,
  DEVICE_FLAGS,
  MODEL,
  openDevice,
  readWindows,
  withSpill,
} from "./flags.ts";
import { beginViews, MESSAGE_FLAGS, shownWarnings } from "./messages.ts";
import { openModel } from "./model.ts";
import { withRoom } from "./room.ts";

/** `sluice granularity MODEL` */
export const granularityCommand: Command = {
  arguments: [MODEL],
  flags: [
    {
      name: "bits",
      type: "integer",
      placeholder: "n",
      min: 2,
      max: 8,
      help: "of the codes",
      default: 4,
      group: "Measuring",
    },
    ...CORPUS_FLAGS,
    {
      name: "report",
      type: "string",
      placeholder: "folder",
      path: true,
      help: "the table as granularity.html, granularity.svg, granularity.csv and " +
        "granularity.json: a new folder, or one that holds these",
      group: "Measuring",
    },
    ...DEVICE_FLAGS,
    ...MESSAGE_FLAGS,
  ],
  examples: [
    ["granularity sample --seq-len 512 --num-samples 8", "the table of the sample model"],
    ["granularity ./SmolLM2-135M --bits 3 --report granularity", "at 3 bits, with pictures"],
  ],
  run,
};

async function run(parsed: ParsedArguments, host: Host): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const views = stack.use(await beginViews(parsed, host));
  const folder = stack.use(await askedReportFolder(parsed, { files: GRANULARITY_FILES, host }));
  const opening = { parsed, host, report: views.report, stack };
  const source = await openModel(parsed.arguments[0]!, opening);
  const { hiddenSize } = granularityModel(source);
  const backend = stack.use(await openDevice(parsed, views.report));
  const windows = await readWindows(parsed, source, { host, report: views.report });
  if (!parsed.get("quiet")) host.err.write(`sluice: measuring ${corpusSentence(windows)}\n`);
  const floatsPerToken = 2 * hiddenSize;
  const placed = await withRoom(windows, { floatsPerToken, backend, host });
  const found = await granularity(source, {
    backend,
    bits: Number(parsed.get("bits")),
    evaluation: await withSpill(placed, { floatsPerToken, host, stack }),
    request: requestOf(placed),
    report: views.report,
    signal: host.signal,
  });
  const evaluation = recordedWindows(requestOf(windows), windows);
  const generator = `sluice ${host.version}`;
  await folder?.write(await granularityFiles(found, { generator, evaluation }));
  views[Symbol.dispose]();
  if (parsed.get("json")) {
    host.out.write(jsonLine({
      type: "result",
      report: parsed.get("report"),
      evaluation,
      ...granularityDocument(found),
      warnings: shownWarnings(views.warnings, parsed),
    }));
  } else if (!parsed.get("quiet")) host.out.write(granularityTable(found));
}

function granularityTable({ bits, perplexity, rows, refused }: Granularities): string {
  const right = (head: string) => ({ head, align: "right" as const });
  const head = [
    { head: `INT${bits}, A SCALE` },
    right("BITS"),
    right("SQNR, DB"),
    right("PERPLEXITY"),
    right("KL (NATS)"),
    right("TIME"),
  ];
  const lines = rows.map((row) => [
    row.name,
    row.bits.toFixed(3),
    row.sqnrDb.toFixed(2),
    row.perplexity.toFixed(3),
    `${row.divergence.toPrecision(3)} ± ${row.divergenceError.toPrecision(2)}`,
    duration(row.seconds),
  ]);
  const original = ["as they were", "", "", perplexity.toFixed(3), "0", ""];
  const left = refused.map(({ name, why }) => `\n${name}: ${visibleMessage(why)}\n`);
  return `${table(head, [original, ...lines])}${left.join("")}`;
}
