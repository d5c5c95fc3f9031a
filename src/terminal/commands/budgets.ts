/** What a run may use at most, as flags. */
import type { Budgets } from "../../budget.ts";
import type { Flag, Said } from "../command.ts";

const GROUP = "Device";

/** What a run may use at most. */
export const BUDGET_FLAGS: readonly Flag[] = [
  {
    name: "max-ram",
    type: "bytes",
    placeholder: "size",
    min: 1,
    help:
      "memory of the process that the plan must keep to (slices shrink, hidden states go to disk)",
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
    help: "temporary files: hidden states, shards of a Hub repository; the output is not counted",
    group: GROUP,
  },
];

/** The budgets that the flags set. */
export function budgetsOf(said: Said): Budgets {
  const bytes = (flag: string) => {
    const value = said.knows(flag) ? said.get(flag) : undefined;
    return value === undefined ? undefined : Number(value);
  };
  return { ram: bytes("max-ram"), vram: bytes("max-vram"), disk: bytes("max-disk") };
}
