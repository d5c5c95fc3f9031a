/** What a run would do by a recipe of several outputs: the plan of each, and of all together. */
import type { Host, ParsedArguments } from "../command.ts";
import type { EnergyTable } from "../../plan/energy.ts";
import { memoryOf } from "../../plan/outputs.ts";
import { jsonText } from "../json.ts";
import { showOutputPlans } from "../outputs_view.ts";
import { planDocument, showPlan } from "../plan_view.ts";
import { sum } from "../../tensor.ts";
import { visible } from "../text.ts";
import { findDeviceFor } from "./flags.ts";
import { shownWarnings, warningsTo } from "./messages.ts";
import { openModel } from "./model.ts";
import type { PlacedRecipe } from "./output_folders.ts";
import { plansFor, readTexts, settleRecipe } from "./walks.ts";

/** Print the plans. */
export async function showPlannedOutputs(
  outputs: readonly PlacedRecipe[],
  { parsed, host, energies }: {
    readonly parsed: ParsedArguments;
    readonly host: Host;
    readonly energies: EnergyTable | undefined;
  },
): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const { report, warnings } = warningsTo(host, parsed);
  const source = await openModel(parsed.arguments[0]!, { parsed, host, report, stack });
  const device = stack.use(await findDeviceFor(parsed, report));
  const texts = await readTexts(parsed, { source, recipes: outputs, host, report });
  const settled = await Array.fromAsync(outputs, async ({ name, recipe }) => ({
    name,
    recipe: recipe.outlierQuantile === undefined ? recipe : await settleRecipe(recipe, {
      parsed,
      source,
      texts,
      host,
      report,
      backend: await device.open(),
    }),
  }));
  const resume = parsed.get("resume") !== false;
  const planning = { parsed, device: device.limits, texts, host, resume };
  const plans = await plansFor(settled, source, planning);
  for (const [i, plan] of plans.entries()) {
    for (const warning of plan.warnings) {
      report({ type: "warning", ...warning, output: outputs[i]!.name });
    }
  }
  const placed = plans.map((plan, i) => ({ path: outputs[i]!.path, plan }));
  if (parsed.get("json")) {
    const backend = await device.open();
    host.out.write(jsonText({
      type: "result",
      outputs: placed.map(({ path, plan }) => ({
        output: path,
        ...planDocument(plan, backend, energies),
      })),
      source_bytes: plans[0]!.sourceBytes,
      total_bytes: sum(plans, ({ totalBytes }) => totalBytes),
      planned_memory: memoryOf(plans),
      warnings: shownWarnings(warnings, parsed),
    }));
    return;
  }
  for (const { path, plan } of placed) {
    host.out.write(`OUTPUT ${visible(path)}\n\n${showPlan(plan, energies, { together: true })}\n`);
  }
  host.out.write(showOutputPlans(placed));
}
