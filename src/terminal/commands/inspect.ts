/** `sluice inspect`: what a checkpoint is, from its headers. */
import type { Command } from "../command.ts";
import { inspect } from "../../inspect.ts";
import { plainNumbers } from "../progress.ts";
import { showInspection } from "../result_view.ts";
import { JSON_FLAG, MODEL, warningsTo } from "./flags.ts";
import { openModel } from "./model.ts";

/** `sluice inspect MODEL` */
export const inspectCommand: Command = {
  name: "inspect",
  summary: "show what a checkpoint holds: dtypes, parameters, tensors, quantization, files",
  arguments: [MODEL],
  flags: [JSON_FLAG],
  examples: [
    ["inspect sample", "the embedded model"],
    ["inspect model.safetensors --json", "names, dtypes and shapes for a program"],
  ],
  async run(said, host) {
    await using stack = new AsyncDisposableStack();
    const report = warningsTo(host);
    const opening = { said, host, report, stack, asStored: true };
    const source = await openModel(said.arguments[0]!, opening);
    const found = inspect(source);
    host.out.write(
      said.get("json") ? JSON.stringify(found, plainNumbers, 2) + "\n" : showInspection(found),
    );
  },
};
