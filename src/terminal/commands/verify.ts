/** `sluice verify`: reads back what was written, and compares it with what it was made of. */
import type { Command } from "../command.ts";
import { jsonLine, recordDocument, tensorDocument } from "../json.ts";
import { showVerification } from "../result_view.ts";
import { verify } from "../../verify.ts";
import { DEVICE_FLAGS, openDevice } from "./flags.ts";
import { beginViews, MESSAGE_FLAGS, shownWarnings } from "./messages.ts";
import { openModel } from "./model.ts";

/** `sluice verify OUT` */
export const verifyCommand: Command = {
  arguments: [{ name: "checkpoint", help: "the folder or file to verify" }],
  flags: [
    {
      name: "source",
      type: "string",
      placeholder: "original",
      help: "what it was made of: every value is compared, copied tensors byte for byte",
      group: "Measuring",
    },
    ...DEVICE_FLAGS,
    ...MESSAGE_FLAGS,
  ],
  examples: [
    ["verify SmolLM2-int4", "structure and scales"],
    ["verify SmolLM2-int4 --source ./SmolLM2-135M", "and the error of each weight"],
  ],
  async run(parsed, host) {
    await using stack = new AsyncDisposableStack();
    const views = stack.use(await beginViews(parsed, host));
    const original = parsed.get("source");
    const source = original === undefined
      ? undefined
      : await openModel(String(original), { parsed, host, report: views.report, stack });
    const backend = stack.use(await openDevice(parsed, views.report));
    const report = await verify(parsed.arguments[0]!, {
      backend,
      report: views.report,
      signal: host.signal,
      ...(source ? { source } : {}),
    });
    views[Symbol.dispose]();
    if (parsed.get("json")) {
      host.out.write(jsonLine({
        type: "result",
        ...report,
        quantized: report.quantized.map(tensorDocument),
        record: report.record && recordDocument(report.record),
        warnings: shownWarnings(views.warnings, parsed),
      }));
    } else if (!parsed.get("quiet")) host.out.write(showVerification(report, source?.label));
  },
};
