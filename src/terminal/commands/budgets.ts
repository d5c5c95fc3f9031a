/** What a run may use at most, as flags. */
import type { Budgets } from "../../plan/fit.ts";
import type { Flag, ParsedArguments } from "../command.ts";
import { isMeasured } from "./bounds.ts";

const GROUP = "Device";

/** What a run may use at most. */
export const BUDGET_FLAGS: readonly Flag[] = [
  {
    name: "max-ram",
    type: "bytes",
    placeholder: "size",
    min: 1,
    help:
      "memory of the process that the plan must keep to (slices shrink, hidden states and large matrices go to disk)",
    group: GROUP,
  },
  {
    name: "max-vram",
    type: "bytes",
    placeholder: "size",
    min: 1,
    help: "memory of the GPU that the plan must keep to",
    group: GROUP,
  },
  {
    name: "max-disk",
    type: "bytes",
    placeholder: "size",
    min: 1,
    help:
      "temporary files: hidden states, matrices, shards of a Hub repository; the output is not " +
      "counted, unless it is uploaded and would not fit: then its weights stay on the Hub alone",
    group: GROUP,
  },
];

/**
 * The budgets that the flags set. Shards of a Hub repository that are `staged`, hidden states that
 * may go to disk, and weights that are there until they are uploaded have equal shares of
 * `--max-disk`.
 */
export function budgetsOf(
  parsed: ParsedArguments,
  { staged }: { readonly staged: boolean },
): Budgets {
  const bytes = (flag: string) => {
    const value = parsed.knows(flag) ? parsed.get(flag) : undefined;
    return value === undefined ? undefined : Number(value);
  };
  const disk = bytes("max-disk");
  const uploads = parsed.knows("upload-repo") && parsed.has("upload-repo");
  const shares = [staged, isMeasured(parsed), uploads].filter((one) => one).length;
  return {
    ram: bytes("max-ram"),
    vram: bytes("max-vram"),
    disk: disk === undefined ? undefined : Math.floor(disk / Math.max(1, shares)),
  };
}
