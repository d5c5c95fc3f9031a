/** What a run would do, from headers alone: what `plan` and `quantize --dry-run` show. */
import { type EnergyTable, parseEnergyTable } from "../../plan/energy.ts";
import { unstored } from "../../formats/unstored.ts";
import { RequestError } from "../../errors.ts";
import type { Recipe } from "../../recipe.ts";
import type { Flag, Host, ParsedArguments } from "../command.ts";
import { planDocument, showPlan } from "../plan_view.ts";
import { jsonText } from "../json.ts";
import { askedBits, settleBits } from "./bits.ts";
import { findDeviceFor, readRecipe } from "./flags.ts";
import { planSearch, prepareSearch } from "./guarantee.ts";
import { shownWarnings, warningsTo } from "./messages.ts";
import { openModel } from "./model.ts";
import { askedOutputs } from "./output_folders.ts";
import { inputsOf, planFor, readTexts, settleRecipe } from "./walks.ts";

/** Whether a run can go on after it was stopped; `plan` and `quantize` share it. */
export const RESUME_FLAG: Flag = {
  name: "resume",
  type: "boolean",
  help: "keep what it takes on disk, so that the same command goes on after the run was stopped",
  default: true,
  group: "Output",
};

/** Whether what is made by a recipe can be gone on with. */
export function isResumable({ format }: Recipe, parsed: ParsedArguments): boolean {
  return format !== unstored.name && parsed.get(RESUME_FLAG.name) !== false;
}

/** Energies to estimate by; `plan` and `quantize` share it. */
export const ENERGY_FLAG: Flag = {
  name: "energy-table",
  type: "string",
  placeholder: "file",
  path: true,
  help:
    "picojoules a bit of memory and an operation take, in JSON or YAML, for the estimate of a " +
    "token's energy (Horowitz, ISSCC 2014, unless given)",
  group: "Measuring",
};

/** The table of energies that the flags name; undefined where they name none. */
export async function readEnergyTable(
  parsed: ParsedArguments,
  host: Host,
): Promise<EnergyTable | undefined> {
  const file = parsed.get(ENERGY_FLAG.name);
  return file === undefined
    ? undefined
    : parseEnergyTable(await host.readText(String(file)), String(file));
}

/** Print the plan of a run; what `quantize --dry-run` does too. */
export async function showPlanned(parsed: ParsedArguments, host: Host): Promise<void> {
  const outputs = await askedOutputs(parsed, host);
  if (outputs) {
    if (parsed.knows("save-plan") && parsed.has("save-plan")) {
      throw new RequestError(
        "Cannot use --save-plan with a recipe of several outputs: a plan is of one. Give each " +
          "output a recipe of its own.",
      );
    }
    const { showPlannedOutputs } = await import("./planned_outputs.ts");
    const energies = await readEnergyTable(parsed, host);
    return await showPlannedOutputs(outputs, { parsed, host, energies });
  }
  const bits = askedBits(parsed);
  const base = await readRecipe(parsed, host);
  const energies = await readEnergyTable(parsed, host);
  await using stack = new AsyncDisposableStack();
  const { report, warnings } = warningsTo(host, parsed);
  const source = await openModel(parsed.arguments[0]!, { parsed, host, report, stack });
  const device = stack.use(await findDeviceFor(parsed, report));
  const open = () => device.open();
  const choosing = { parsed, source, device: device.limits, open, host, report };
  const searching = bits && "within" in bits
    ? await prepareSearch(base, bits.within, choosing)
    : undefined;
  const settled = searching
    ? await planSearch(searching, choosing)
    : bits && !("within" in bits)
    ? await settleBits(base, bits, choosing)
    : undefined;
  const asked = settled?.recipe ?? base;
  const sensed = settled !== undefined;
  const texts = searching?.texts ??
    await readTexts(parsed, {
      source,
      recipes: [{ name: "", recipe: asked }],
      host,
      report,
      sensed,
    });
  const found = { parsed, source, texts, host, report };
  const recipe = asked.outlierQuantile === undefined
    ? asked
    : await settleRecipe(asked, { ...found, backend: await device.open() });
  const resume = isResumable(recipe, parsed);
  const planned = await planFor(recipe, source, { ...found, device: device.limits, resume });
  for (const warning of planned.warnings) report({ type: "warning", ...warning });
  if (parsed.knows("save-plan") && parsed.has("save-plan")) {
    const { savePlan } = await import("./saved_plan.ts");
    const backend = await device.open();
    const inputs = await inputsOf(texts, { plans: [planned], host, stack });
    await savePlan(planned, { parsed, host, source, backend, ...inputs });
  }
  if (parsed.knows("upload-repo") && parsed.has("upload-repo")) {
    const { roomFor, roomSentence } = await import("./upload_room.ts");
    const room = roomFor(planned, { parsed, staged: source.schedule !== undefined });
    if (room) host.err.write(`sluice: ${roomSentence(room)}\n`);
  }
  host.out.write(
    parsed.get("json")
      ? jsonText({
        type: "result",
        ...planDocument(planned, await device.open(), energies),
        warnings: shownWarnings(warnings, parsed),
      })
      : (settled ? `${settled.table}\n` : "") + showPlan(planned, energies),
  );
}
