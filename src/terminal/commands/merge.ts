/** `sluice merge`: put together what workers have done, as the checkpoint of one machine. */
import { RequestError } from "../../errors.ts";
import { LEFT_BEHIND } from "../../io/left_behind.ts";
import { doneUnits } from "../../run/worker.ts";
import { run } from "../../run.ts";
import { openFolderSink } from "../../sinks/folder.ts";
import type { Command } from "../command.ts";
import { CheckpointStays } from "../faults.ts";
import { jsonLine, recordDocument } from "../json.ts";
import { showRun } from "../result_view.ts";
import { beginViews, MESSAGE_FLAGS, shownWarnings } from "./messages.ts";
import { MEETING_PLACE, openPlace } from "./meeting.ts";
import { checkApart } from "./model.ts";
import { placeOf } from "./output_place.ts";
import {
  checkRepo,
  PUBLISH_FLAGS,
  publishCheckpoint,
  publishedPaths,
  publishLine,
  refuseUnpublished,
} from "./publish.ts";
import { publishWhole, wholeOutput } from "./publish_made.ts";
import { quantizeCommand } from "./quantize.ts";
import { openJob, OWN_FLAGS } from "./shared_job.ts";

const OUTPUT_FLAGS = quantizeCommand.flags.filter(({ name }) =>
  ["output", "overwrite", "upload-repo"].includes(name)
);

/** `sluice merge FOLDER --output DIR` */
export const mergeCommand: Command = {
  arguments: [MEETING_PLACE],
  flags: [...OUTPUT_FLAGS, ...PUBLISH_FLAGS, ...OWN_FLAGS, ...MESSAGE_FLAGS],
  examples: [
    ["merge shared --output out", "the bytes that one machine would have written"],
    ["merge shared --output out --json", "its record as JSON"],
    [
      "merge hf://me/job --upload-repo me/model-int4 --yes",
      "from a repository where workers met to that of the model",
    ],
  ],
  leaves: true,
  async run(parsed, host) {
    const [word] = parsed.arguments as [string];
    const upload = parsed.get("upload-repo");
    if (parsed.get("output") === undefined && upload === undefined) {
      throw new RequestError("Cannot merge: say where the result goes, --output and a new folder.");
    }
    const made = await wholeOutput(parsed, host);
    await using stack = new AsyncDisposableStack();
    const output = await placeOf(parsed, host, stack);
    if (upload !== undefined) await checkRepo(String(upload), { parsed, host });
    else refuseUnpublished(parsed);
    const views = stack.use(await beginViews(parsed, host));
    const folder = await openPlace(word, { host, report: views.report, stack });
    const { plan, source, backend, inputs, command } = await openJob(folder, {
      parsed,
      host,
      report: views.report,
      stack,
    });
    if (made) {
      const publishing = { parsed, host, backend, views };
      return await publishWhole(made, { planned: plan, texts: inputs, ...publishing });
    }
    await checkApart(folder.job.words[0]!, output.path);
    // Files of others there, as those of the job itself.
    if (upload !== undefined) {
      await checkRepo(String(upload), { parsed, host }, publishedPaths(plan));
    }
    const sink = stack.use(
      await openFolderSink(output.path, {
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
      // What came of putting it together is no business of the result's.
      warnings: views.warnings.filter(({ code }) => code !== LEFT_BEHIND && code !== "waiting"),
      residentBytes: host.residentBytes,
      currentBytes: host.currentBytes,
      ...inputs,
    });
    if (parsed.get("json")) {
      host.out.write(jsonLine({
        type: "result",
        output: output.path,
        ...recordDocument(report.record),
        warnings: shownWarnings(report.warnings, parsed),
        seconds: report.seconds,
      }));
    } else if (!parsed.get("quiet")) {
      host.out.write(showRun({ plan, report, output: output.path }));
    }
    if (upload === undefined) return;
    views[Symbol.dispose]();
    try {
      await publishCheckpoint(output.path, String(upload), { parsed, host, backend });
    } catch (cause) {
      await output.keep();
      const next = publishLine(output.path, String(upload), parsed);
      throw new CheckpointStays(output.path, { next, cause });
    }
  },
};
