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
  name: "verify",
  summary: "read a written checkpoint back: structure, scales, values against the source, loaders",
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
  async run(said, host) {
    await using stack = new AsyncDisposableStack();
    const views = stack.use(await beginViews(said, host));
    const original = said.get("source");
    const source = original === undefined
      ? undefined
      : await openModel(String(original), { said, host, report: views.report, stack });
    const backend = stack.use(await openDevice(said, views.report));
    const report = await verify(said.arguments[0]!, {
      backend,
      report: views.report,
      signal: host.signal,
      ...(source ? { source } : {}),
    });
    views[Symbol.dispose]();
    if (said.get("json")) {
      host.out.write(jsonLine({
        type: "result",
        ...report,
        quantized: report.quantized.map(tensorDocument),
        record: report.record && recordDocument(report.record),
        warnings: shownWarnings(views.warnings, said),
      }));
    } else if (!said.get("quiet")) host.out.write(showVerification(report, source?.label));
  },
};
