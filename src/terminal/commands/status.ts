/** `sluice status`: how far a run is. */
import { type RunStatus, runStatus } from "../../run/status.ts";
import { size } from "../../size.ts";
import type { Command } from "../command.ts";
import { jsonText } from "../json.ts";
import { pairs } from "../table.ts";
import { plural, visible, visibleMessage } from "../text.ts";
import { JSON_FLAG } from "./messages.ts";

/** `sluice status FOLDER` */
export const statusCommand: Command = {
  arguments: [{ name: "folder", help: "what --output of the run says" }],
  flags: [JSON_FLAG],
  examples: [
    ["status out", "units that are finished, and whether the run goes on"],
    ["status out --json", "the same for a program"],
  ],
  async run(parsed, host) {
    const status = await runStatus(parsed.arguments[0]!);
    host.out.write(parsed.get("json") ? jsonText({ type: "result", ...status }) : shown(status));
  },
};

function shown(
  { state, units, of, unit, writtenBytes, totalBytes, carryBytes, saved, command }: RunStatus,
): string {
  const words = {
    running: "goes on",
    stopped: "stopped; the same command goes on",
    unknown: "not finished; whether it goes on cannot be told",
    finished: "finished",
  };
  return pairs([
    ["run", words[state]],
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
