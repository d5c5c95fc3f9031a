/** `sluice curves`: rate against distortion of every scheme. */
import type { Command, Host, ParsedArguments } from "../command.ts";
import { MAX_SEED } from "../../corpora/random.ts";
import { curves } from "../../curves.ts";
import { boundDb, type Curves } from "../../curves/measured.ts";
import { CURVE_FILES, curveFiles } from "../../curves/page.ts";
import { LINES } from "../../curves/schemes.ts";
import { jsonLine } from "../json.ts";
import { askedReportFolder } from "../report_folder.ts";
import { type Column, table } from "../table.ts";
import { visible } from "../text.ts";
import { DEVICE_FLAGS, MODEL, openDevice } from "./flags.ts";
import { beginViews, MESSAGE_FLAGS, shownWarnings } from "./messages.ts";
import { openModel } from "./model.ts";

const GROUP = "Measuring";

/** `sluice curves MODEL` */
export const curvesCommand: Command = {
  arguments: [MODEL],
  flags: [
    {
      name: "tensor",
      type: "string",
      placeholder: "pattern",
      help: "weights to quantize: a glob, or re: and a regular expression (five of all blocks " +
        "unless given)",
      group: GROUP,
    },
    {
      name: "seed",
      type: "integer",
      placeholder: "n",
      min: 0,
      max: MAX_SEED,
      help: "of the numbers that are drawn",
      default: 1,
      group: GROUP,
    },
    {
      name: "report",
      type: "string",
      placeholder: "folder",
      path: true,
      help: "the curves as curves.html, curves.svg, curves.csv and curves.json: a new folder, or " +
        "one that holds curves",
      group: GROUP,
    },
    ...DEVICE_FLAGS,
    ...MESSAGE_FLAGS,
  ],
  examples: [
    ["curves sample --report curves", "pictures of the sample model's weights"],
    ["curves ./SmolLM2-135M --tensor '*down_proj'", "a table of all weights of one kind"],
    ["curves sample --json", "every point, for a program"],
  ],
  run,
};

async function run(parsed: ParsedArguments, host: Host): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const views = stack.use(await beginViews(parsed, host));
  const folder = stack.use(await askedReportFolder(parsed, { files: CURVE_FILES, host }));
  const source = await openModel(parsed.arguments[0]!, {
    parsed,
    host,
    report: views.report,
    stack,
  });
  const backend = stack.use(await openDevice(parsed, views.report));
  const pattern = parsed.get("tensor");
  const found = await curves(source, {
    backend,
    seed: Number(parsed.get("seed")),
    report: views.report,
    signal: host.signal,
    ...(pattern === undefined ? {} : { tensor: String(pattern) }),
  });
  await folder?.write(await curveFiles(found, { generator: `sluice ${host.version}` }));
  views[Symbol.dispose]();
  if (parsed.get("json")) {
    const warnings = shownWarnings(views.warnings, parsed);
    host.out.write(jsonLine({ type: "result", report: parsed.get("report"), ...found, warnings }));
  } else if (!parsed.get("quiet")) host.out.write(curvesTable(found));
}

/** A row for each scheme, bits and decibels; a column of decibels for each set of data. */
function curvesTable({ data, points }: Curves): string {
  const columns: Column[] = [
    { head: "scheme" },
    { head: "bits", align: "right" },
    ...data.map((_, i): Column => ({ head: `[${i + 1}] dB`, align: "right" })),
  ];
  const rows = LINES.flatMap(({ name }) => {
    const own = points.filter(({ line }) => line === name);
    // Where groups differ in size so do labels; widths are in the same order everywhere.
    const byData = data.map((set) => own.filter((point) => point.data === set.name));
    const most = Math.max(0, ...byData.map(({ length }) => length));
    return Array.from({ length: most }, (_, i) => {
      const first = byData.find((points) => points[i])![i]!;
      return [
        first.scheme,
        first.bits.toFixed(3),
        ...byData.map((points) => points[i]?.sqnrDb.toFixed(2) ?? ""),
      ];
    });
  });
  const bounds = [2, 3, 4, 8].map((bits) => [
    "Shannon's bound",
    bits.toFixed(3),
    ...data.map(({ bound }) => boundDb(bound, bits).toFixed(2)),
  ]);
  const legend = data.map(({ name, rows, columns }, i) =>
    `[${i + 1}] ${visible(name)}, ${rows} × ${columns}\n`
  );
  return `${
    table(columns, [...rows, ...bounds])
  }\nbits of [1]; those of others differ by the share of scales and tables\n${legend.join("")}`;
}
