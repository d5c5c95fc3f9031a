/** `sluice plan`: what a run would do; and, if asked, a folder where machines meet that share it. */
import { quote } from "../../errors.ts";
import { size } from "../../size.ts";
import type { Command, Host, ParsedArguments } from "../command.ts";
import { BITS_FLAGS } from "./bits.ts";
import { BOUND_FLAGS } from "./bounds.ts";
import { BUDGET_FLAGS } from "./budgets.ts";
import {
  CALIBRATION_FLAGS,
  DEVICE_FLAGS,
  EVALUATE_FLAG,
  EVALUATION_FLAGS,
  MODEL,
  RECIPE_FLAGS,
  SAVE_PLAN_FLAG,
} from "./flags.ts";
import { JSON_FLAG } from "./messages.ts";
import { ENERGY_FLAG, RESUME_FLAG, showPlanned } from "./planned.ts";

/** Show the plan, and make the folder where machines meet that share it. */
async function showAndShare(parsed: ParsedArguments, host: Host): Promise<void> {
  const folder = parsed.get("work-dir");
  if (folder === undefined) return await showPlanned(parsed, host);
  // What cannot be shared is refused before anything is shown.
  // Only then, for it takes as long to load as all that a plan needs.
  const { beginJob } = await import("./shared_job.ts");
  const { work, bytes } = await beginJob(String(folder), { parsed, host, report: () => {} });
  await showPlanned(parsed, host);
  const units = work.job.units.keys();
  const done = await Array.fromAsync(units, async (unit) => await work.done(unit) !== undefined);
  const open = done.filter((is) => !is).length;
  const exchanged = bytes.exchanged > 0
    ? `, and ${size(bytes.exchanged)} at most of what workers exchange`
    : "";
  host.err.write(
    `sluice: until it is merged ${quote(work.path)} takes ${size(bytes.units)}${exchanged}\n`,
  );
  host.err.write(
    open === 0
      ? `sluice: all units in ${quote(work.path)} are done: sluice merge FOLDER\n`
      : `sluice: ${open} units wait in ${quote(work.path)} for workers: sluice work FOLDER\n`,
  );
}

/** `sluice plan MODEL` */
export const planCommand: Command = {
  arguments: [MODEL],
  flags: [
    ...RECIPE_FLAGS,
    ...BITS_FLAGS,
    ...BOUND_FLAGS,
    ...CALIBRATION_FLAGS,
    EVALUATE_FLAG,
    ...EVALUATION_FLAGS,
    RESUME_FLAG,
    ENERGY_FLAG,
    ...DEVICE_FLAGS,
    ...BUDGET_FLAGS,
    {
      name: "work-dir",
      type: "string",
      placeholder: "folder",
      path: true,
      help: "make a folder where machines meet that share the plan: work, then merge",
      group: "Sharing",
    },
    SAVE_PLAN_FLAG,
    JSON_FLAG,
  ],
  examples: [
    ["plan sample --scheme W4A16 --group-size 64", "sizes and fates for int4 in groups of 64"],
    ["plan ./SmolLM2-135M --recipe recipe.yaml", "what a recipe makes of a model"],
    [
      "plan ./SmolLM2-135M --target-bpw 4.5 --group-size 64 --save-recipe mixed.json",
      "bits for each layer, 4.5 on average, by what each loses",
    ],
    [
      "plan ./SmolLM2-135M --scheme NF4 --json",
      "every tensor's name, dtype, shape and offset as JSON",
    ],
  ],
  run: showAndShare,
};
