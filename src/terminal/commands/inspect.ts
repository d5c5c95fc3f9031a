/** `sluice inspect`: what a checkpoint is, from its headers. */
import type { Command } from "../command.ts";
import { inspect } from "../../inspect.ts";
import { readRecord } from "../../report/record_file.ts";
import { jsonText, recordDocument, Verbatim } from "../json.ts";
import { showInspection } from "../result_view.ts";
import { MODEL } from "./flags.ts";
import { JSON_FLAG, shownWarnings, warningsTo } from "./messages.ts";
import { openModel } from "./model.ts";

/** `sluice inspect MODEL` */
export const inspectCommand: Command = {
  arguments: [MODEL],
  flags: [JSON_FLAG],
  examples: [
    ["inspect sample", "the embedded model"],
    ["inspect model.safetensors --json", "names, dtypes and shapes for a program"],
  ],
  async run(parsed, host) {
    await using stack = new AsyncDisposableStack();
    const { report, warnings } = warningsTo(host, parsed);
    const opening = { parsed, host, report, stack, asStored: true };
    const source = await openModel(parsed.arguments[0]!, opening);
    const found = inspect(source);
    const record = await readRecord(source);
    if (!parsed.get("json")) {
      host.out.write(showInspection(found, record));
      return;
    }
    const { quantization } = found;
    host.out.write(jsonText({
      type: "result",
      ...found,
      quantization: quantization && {
        ...quantization,
        section: new Verbatim(quantization.section),
      },
      record: record && recordDocument(record),
      warnings: shownWarnings(warnings, parsed),
    }));
  },
};
