/** `sluice evaluate`: perplexity of a checkpoint, and how far it is from its original. */
import type { Command, Host, ParsedArguments } from "../command.ts";
import { evaluate } from "../../evaluate.ts";
import { modelToEvaluate } from "../../plan/model.ts";
import { requestOf } from "../../plan/planned.ts";
import { recordedWindows } from "../../report/record.ts";
import { jsonLine } from "../json.ts";
import { scoreRows } from "../result_view.ts";
import { pairs } from "../table.ts";
import { duration, visible } from "../text.ts";
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

/** `sluice evaluate MODEL` */
export const evaluateCommand: Command = {
  arguments: [MODEL],
  flags: [
    {
      name: "reference",
      type: "string",
      placeholder: "original",
      help: "the checkpoint to compare with: the unquantized model",
      group: "Measuring",
    },
    ...CORPUS_FLAGS,
    ...DEVICE_FLAGS,
    ...MESSAGE_FLAGS,
  ],
  examples: [
    ["evaluate sample --seq-len 512 --num-samples 16", "perplexity of the sample model"],
    ["evaluate SmolLM2-int4 --reference ./SmolLM2-135M", "a quantized model against its original"],
    ["evaluate ./SmolLM2-135M --corpus wikitext.txt --json", "on your own text, for a program"],
  ],
  run,
};

async function run(parsed: ParsedArguments, host: Host): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const views = stack.use(await beginViews(parsed, host));
  const opening = { parsed, host, report: views.report, stack };
  const source = await openModel(parsed.arguments[0]!, opening);
  const original = parsed.get("reference");
  const reference = original === undefined ? undefined : await openModel(String(original), opening);
  const backend = stack.use(await openDevice(parsed, views.report));
  const windows = await readWindows(parsed, source, { host, report: views.report });
  if (!parsed.get("quiet")) host.err.write(`sluice: measuring ${corpusSentence(windows)}\n`);
  const floatsPerToken = (await modelToEvaluate(source)).hiddenSize * (reference ? 2 : 1);
  const placed = await withRoom(windows, { floatsPerToken, backend, host });
  const evaluation = await withSpill(placed, { floatsPerToken, host, stack });
  const begun = performance.now();
  const scores = await evaluate(source, {
    backend,
    evaluation,
    report: views.report,
    signal: host.signal,
    ...(reference ? { reference } : {}),
  });
  const seconds = (performance.now() - begun) / 1000;
  views[Symbol.dispose]();
  if (parsed.get("json")) {
    host.out.write(jsonLine({
      type: "result",
      model: source.label,
      reference: reference?.label,
      device: { name: backend.name, description: backend.description },
      evaluation: recordedWindows(requestOf(windows), windows),
      scores,
      seconds,
      warnings: shownWarnings(views.warnings, parsed),
    }));
    return;
  }
  host.out.write(pairs([
    ["model", visible(source.label)],
    ...(reference ? [["reference", visible(reference.label)] as const] : []),
    ["measured on", corpusSentence(windows)],
    ...scoreRows(scores),
    ["time", duration(seconds)],
  ]));
}
