/** `sluice plan`: what a run would do; and, if asked, a place where machines meet that share it. */
import { quote } from "../../errors.ts";
import { isHubPlace } from "../../meeting/names.ts";
import { size } from "../../size.ts";
import type { Command, Host, ParsedArguments } from "../command.ts";
import { shellWord } from "../text.ts";
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

/** Show the plan, and make the place where machines meet that share it. */
async function showAndShare(parsed: ParsedArguments, host: Host): Promise<void> {
  const word = parsed.get("work-dir");
  if (word === undefined) return await showPlanned(parsed, host);
  await using stack = new AsyncDisposableStack();
  // What cannot be shared is refused before anything is shown.
  // Only then, for it takes as long to load as all that a plan needs.
  const { beginJob } = await import("./shared_job.ts");
  const begun = await beginJob(String(word), { parsed, host, report: () => {}, stack });
  const { place, bytes, unitBytes } = begun;
  await showPlanned(parsed, host);
  const open = (await place.undone()).length;
  const name = shellWord(String(word));
  const takes = [size(bytes.units)];
  if (place.together && bytes.exchanged > 0) {
    takes.push(`${size(bytes.exchanged)} at most of what workers exchange`);
    if (bytes.exchangedByEach > 0) {
      takes.push(`${size(bytes.exchangedByEach)} more for each worker`);
    }
  }
  const list = new Intl.ListFormat("en").format(takes);
  host.err.write(`sluice: until it is merged ${quote(place.path)} takes ${list}\n`);
  host.err.write(
    open === 0
      ? `sluice: all units in ${quote(place.path)} are done: sluice merge ${name}\n`
      : `sluice: ${open} units wait in ${quote(place.path)} for workers: sluice work ${name}\n`,
  );
  if (!isHubPlace(place.path)) return;
  host.err.write(
    `sluice: each worker sends its units from its temporary folder, which holds ${
      size(2 * unitBytes)
    } of them at most\n`,
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
      help:
        "make a folder, or a private repository of the Hub (hf://org/name), where machines meet that share the plan: work, then merge",
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
