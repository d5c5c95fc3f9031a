/** `sluice status`: how far a run is, or a plan that machines share. */
import { join } from "node:path";
import { disk } from "../../io/disk.ts";
import { isHubPlace } from "../../meeting/names.ts";
import { type RunStatus, runStatus } from "../../run/status.ts";
import { JOB_FILE } from "../../run/work_job.ts";
import { size } from "../../size.ts";
import type { Command } from "../command.ts";
import { jsonText } from "../json.ts";
import { pairs } from "../table.ts";
import { plural, visible, visibleMessage } from "../text.ts";
import { JSON_FLAG, warningsTo } from "./messages.ts";

/** `sluice status FOLDER` */
export const statusCommand: Command = {
  arguments: [{
    name: "folder",
    help: "what --output of the run says, of several outputs one, or --work-dir of the plan",
  }],
  flags: [JSON_FLAG],
  examples: [
    ["status out", "units that are finished, and whether the run goes on"],
    ["status out --json", "the same for a program"],
    ["status hf://me/job", "units that machines have done that meet there, and who is at others"],
  ],
  async run(parsed, host) {
    const [word] = parsed.arguments as [string];
    if (isHubPlace(word) || await disk.stat(join(word, JOB_FILE))) {
      // Only then: the way to the Hub takes as long to load as all that a run's journal needs.
      const { jobStatus, jobStatusText } = await import("./job_status.ts");
      const { openPlace } = await import("./meeting.ts");
      await using stack = new AsyncDisposableStack();
      const { report } = warningsTo(host, parsed);
      const status = await jobStatus(await openPlace(word, { host, report, stack }));
      host.out.write(
        parsed.get("json") ? jsonText({ type: "result", ...status }) : jobStatusText(status),
      );
      return;
    }
    const status = await runStatus(word);
    host.out.write(parsed.get("json") ? jsonText({ type: "result", ...status }) : shown(status));
  },
};

function shown(
  status: RunStatus,
): string {
  const { state, units, of, unit, writtenBytes, totalBytes, carryBytes, saved, command } = status;
  const words = {
    running: "goes on",
    // What no unit was saved of is removed when the command begins again.
    stopped: `stopped; the same command ${units === 0 ? "begins again" : "goes on"}`,
    unknown: "not finished; whether it goes on cannot be told",
    finished: "finished",
  };
  return pairs([
    ["run", words[state]],
    ...(status.searching
      ? [["search", "bits are searched for; what is measured is kept"] as const]
      : []),
    ...(units === null || of === null ? [] : [
      [
        "saved",
        `${units} of ${plural(of, "unit")}${unit === null ? "" : `, up to ${visible(unit)}`}`,
      ] as const,
    ]),
    ...(saved === null ? [] : [["at", saved] as const]),
    ...(writtenBytes === null || totalBytes === null
      ? []
      : [["written", `${size(writtenBytes)} of ${size(totalBytes)}`] as const]),
    ...(carryBytes ? [["to go on with", size(carryBytes)] as const] : []),
    ...(command === null ? [] : [["command", visibleMessage(command)] as const]),
  ]);
}
