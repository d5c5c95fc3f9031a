/** `sluice merge`: put together what workers have done, as the checkpoint of one machine. */
import { RequestError } from "../../errors.ts";
import { disk } from "../../io/disk.ts";
import { LEFT_BEHIND } from "../../io/left_behind.ts";
import { doneUnits } from "../../run/worker.ts";
import { WorkFolder } from "../../run/work_folder.ts";
import { run } from "../../run.ts";
import { openFolderSink } from "../../sinks/folder.ts";
import type { Command } from "../command.ts";
import { jsonLine, recordDocument } from "../json.ts";
import { showRun } from "../result_view.ts";
import { beginViews, MESSAGE_FLAGS, shownWarnings } from "./messages.ts";
import { checkApart } from "./model.ts";
import { quantizeCommand } from "./quantize.ts";
import { openJob, OWN_FLAGS, WORK_FOLDER } from "./shared_job.ts";

const OUTPUT_FLAGS = quantizeCommand.flags.filter(({ name }) =>
  name === "output" || name === "overwrite"
);

/** `sluice merge FOLDER --output DIR` */
export const mergeCommand: Command = {
  arguments: [WORK_FOLDER],
  flags: [...OUTPUT_FLAGS, ...OWN_FLAGS, ...MESSAGE_FLAGS],
  examples: [
    ["merge shared --output out", "the bytes that one machine would have written"],
    ["merge shared --output out --json", "its record as JSON"],
  ],
  leaves: true,
  async run(parsed, host) {
    const [path] = parsed.arguments as [string];
    const output = parsed.get("output");
    const folder = await WorkFolder.open(disk, path);
    if (output === undefined) {
      throw new RequestError("Cannot merge: say where the result goes, --output and a new folder.");
    }
    await using stack = new AsyncDisposableStack();
    const views = stack.use(await beginViews(parsed, host));
    const { plan, source, backend, inputs, command } = await openJob(folder, {
      parsed,
      host,
      report: views.report,
      stack,
    });
    await checkApart(folder.job.words[0]!, String(output));
    const sink = stack.use(
      await openFolderSink(String(output), {
        overwrite: parsed.get("overwrite") === true,
        report: views.report,
      }),
    );
    const report = await run(plan, {
      source,
      backend,
      sink,
      units: doneUnits(plan, folder),
      report: views.report,
      signal: host.signal,
      command,
      warnings: views.warnings.filter(({ code }) => code !== LEFT_BEHIND),
      residentBytes: host.residentBytes,
      currentBytes: host.currentBytes,
      ...inputs,
    });
    if (parsed.get("json")) {
      host.out.write(jsonLine({
        type: "result",
        output,
        ...recordDocument(report.record),
        warnings: shownWarnings(report.warnings, parsed),
        seconds: report.seconds,
      }));
    } else if (!parsed.get("quiet")) {
      host.out.write(showRun({ plan, report, output: String(output) }));
    }
  },
};
