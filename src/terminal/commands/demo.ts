/**
 * `sluice demo`: quantizes the embedded model three ways, measures them, and says what to type
 * next. Leaves nothing behind.
 */
import type { Command } from "../command.ts";
import { prepareCalibration, type PreparedWindows, prepareWindows } from "../../windows.ts";
import { open } from "../../open.ts";
import { requestOf } from "../../plan/planned.ts";
import { plan } from "../../plan.ts";
import { recipeFromOptions } from "../../recipe.ts";
import { recordedWindows } from "../../report/record.ts";
import type { RunReport } from "../../report/run_report.ts";
import { run } from "../../run.ts";
import { openFolderSink } from "../../sinks/folder.ts";
import { jsonLine } from "../json.ts";
import { table } from "../table.ts";
import { duration } from "../text.ts";
import { size } from "../../size.ts";
import { byteLength } from "../../tensor.ts";
import { corpusSentence, DEVICE_FLAGS, openDevice } from "./flags.ts";
import { beginViews, MESSAGE_FLAGS, shownWarnings, type Warning } from "./messages.ts";

/** What is shown, and the flags that make it. */
const SHOWN: readonly (readonly [title: string, flags: Readonly<Record<string, string>>])[] = [
  ["int4, groups of 64, calibrated", { scheme: "W4A16", "group-size": "64" }],
  ["int4, rounded to nearest", { scheme: "W4A16", "group-size": "64", method: "rtn" }],
  ["NF4, blocks of 64", { scheme: "NF4" }],
];

/** Few enough windows for less than a minute on two cores, enough for three digits. */
const CALIBRATION_WINDOWS = 16;
const WINDOWS = 16;
const SEQ_LEN = 512;

/** `sluice demo` */
export const demoCommand: Command = {
  arguments: [],
  flags: [...DEVICE_FLAGS, ...MESSAGE_FLAGS],
  examples: [
    ["demo", "on the best device there is"],
    ["demo --device wasm --threads 1", "on one CPU thread"],
  ],
  async run(parsed, host) {
    await using stack = new AsyncDisposableStack();
    const views = stack.use(await beginViews(parsed, host));
    const source = stack.use(await open("sample"));
    const backend = stack.use(await openDevice(parsed, views.report));
    const windows = await prepareWindows(source, { seqLen: SEQ_LEN, numSamples: WINDOWS });
    const calibration = await prepareCalibration(source, {
      seqLen: SEQ_LEN,
      numSamples: CALIBRATION_WINDOWS,
    });
    if (!parsed.get("quiet")) {
      host.err.write(
        `sluice: the sample model, a Llama of 4 million parameters, on ${
          corpusSentence(windows)
        }\n`,
      );
    }
    const folder = stack.use(await host.temporaryFolder());
    const results: Result[] = [];
    for (const [index, [title, flags]] of SHOWN.entries()) {
      const planned = plan(recipeFromOptions(flags), source, {
        device: backend,
        evaluation: requestOf(windows),
        calibration: requestOf(calibration),
      });
      await using sink = await openFolderSink(`${folder.path}/${index}`);
      const report = await run(planned, {
        source,
        backend,
        sink,
        report: views.report,
        signal: host.signal,
        evaluation: windows,
        calibration,
        residentBytes: host.residentBytes,
      });
      results.push({
        title,
        flags,
        bytes: planned.totalBytes,
        bits: planned.bitsPerWeight,
        report,
      });
    }
    views[Symbol.dispose]();
    if (parsed.get("json")) {
      const warnings = shownWarnings(views.warnings, parsed);
      host.out.write(jsonLine(demoDocument(results, { windows, warnings })));
    } else if (!parsed.get("quiet")) {
      host.out.write(
        showResults(results, [...source.tensors.values()].reduce((n, t) => n + byteLength(t), 0)),
      );
    }
  },
};

interface Result {
  readonly title: string;
  readonly flags: Readonly<Record<string, string>>;
  readonly bytes: number;
  readonly bits: number;
  readonly report: Pick<RunReport, "scores" | "seconds">;
}

/** The result for a program. */
export function demoDocument(
  results: readonly Result[],
  { windows, warnings }: { windows: PreparedWindows; warnings: readonly Warning[] },
): Readonly<Record<string, unknown>> {
  return {
    type: "result",
    evaluation: recordedWindows(requestOf(windows), windows),
    results: results.map(({ title, flags, bytes, bits, report: { scores, seconds } }) => ({
      title,
      flags,
      totalBytes: bytes,
      bitsPerWeight: bits,
      scores,
      seconds,
    })),
    warnings,
  };
}

function showResults(results: readonly Result[], sourceBytes: number): string {
  const [first] = results;
  const number = (x: number | undefined, digits: number) =>
    x === undefined ? "" : x.toFixed(digits);
  const right = (head: string) => ({ head, align: "right" as const });
  const before = first?.report.scores.perplexity?.original_perplexity;
  const rows = results.map(({ title, bytes, bits, report: { scores, seconds } }) => [
    title,
    size(bytes),
    bits.toFixed(2),
    number(scores.perplexity?.perplexity, 3),
    number(scores.divergence?.mean, 5),
    `${number(scores.divergence?.same_top_percent, 1)} %`,
    duration(seconds),
  ]);
  return [
    table(
      [
        { head: "WEIGHTS" },
        right("SIZE"),
        right("BITS"),
        right("PERPLEXITY"),
        right("KL (NATS)"),
        right("SAME TOP"),
        right("TIME"),
      ],
      [[
        "as they were (bf16)",
        size(sourceBytes),
        "16.00",
        number(before, 3),
        "0.00000",
        "100.0 %",
        "",
      ], ...rows],
    ),
    "SIZE holds the embedding, which stays as it was; BITS is of the quantized weights alone.\n\n" +
    "Next, with a model of your own (a folder with config.json, safetensors and tokenizer.json):\n" +
    `  npx -y deno@${Deno.version.deno} run -A cli.ts quantize ./model --scheme W4A16 --group-size 64 --evaluate --output ./model-int4\n`,
  ].join("\n");
}
