/** `sluice quantize` by a recipe of several outputs: one read, and a table of what came of it. */
import type { Plan } from "../../plan/planned.ts";
import { memoryOf } from "../../plan/outputs.ts";
import type { RunReport } from "../../report/run_report.ts";
import { runOutputs } from "../../run.ts";
import { LEFT_BEHIND } from "../../io/left_behind.ts";
import type { Recipe } from "../../recipe.ts";
import type { Event } from "../../report.ts";
import { openFolderSink } from "../../sinks/folder.ts";
import type { Sink } from "../../sink.ts";
import type { Command, Host, ParsedArguments } from "../command.ts";
import { quote } from "../../errors.ts";
import { CheckpointStays } from "../faults.ts";
import { jsonLine, recordDocument } from "../json.ts";
import { outputsSentence, showOutputs } from "../outputs_view.ts";
import { tryPaths } from "../written_paths.ts";
import { commandLine } from "./command_line.ts";
import { corpusSentence, openDevice } from "./flags.ts";
import { Halt } from "./halt.ts";
import { beginViews, shownWarnings } from "./messages.ts";
import { checkApart, openModel } from "./model.ts";
import { checkMade, recordsThere } from "./made_before.ts";
import type { PlacedRecipe } from "./output_folders.ts";
import { keptOf } from "./output_place.ts";
import { readEnergyTable } from "./planned.ts";
import { inputsOf, plansFor, readTexts, settleRecipe } from "./walks.ts";

/** Make all outputs, or none; those that the same command has made already stay. */
export async function quantizeOutputs(
  asked: readonly PlacedRecipe[],
  { command, parsed, host }: {
    readonly command: Command;
    readonly parsed: ParsedArguments;
    readonly host: Host;
  },
): Promise<void> {
  const [model] = parsed.arguments as [string];
  await using stack = new AsyncDisposableStack();
  const resume = parsed.get("resume") !== false;
  const there = await recordsThere(asked, { parsed, host });
  const outputs = asked.filter(({ path }) => !there.has(path));
  for (const { path } of outputs) await tryPaths(command, { parsed, output: path, host });
  const energyTable = await readEnergyTable(parsed, host);
  const views = stack.use(await beginViews(parsed, host));
  const { report } = views;
  const sinks: Sink[] = [];
  for (const { path } of outputs) {
    await checkApart(model, path);
    const flags = {
      overwrite: parsed.get("overwrite") === true,
      restart: parsed.get("restart") === true,
    };
    const others = [...outputs.map(({ path }) => path), ...host.otherOutputs ?? []];
    sinks.push(stack.use(await openFolderSink(path, { ...flags, others, resume, report })));
  }
  const halt = stack.use(new Halt(host));
  const reading = { ...host, signal: halt.controller.signal };
  const source = await openModel(model, { parsed, host: reading, report, stack });
  const backend = stack.use(await openDevice(parsed, report));
  const texts = await readTexts(parsed, { source, recipes: asked, host, report });
  const settling = { parsed, source, backend, texts, host, report };
  const settled = await Array.fromAsync(
    asked,
    async (output) => ({ ...output, recipe: await settleRecipe(output.recipe, settling) }),
  );
  const planning = { parsed, device: backend, texts, host, resume };
  if (there.size > 0) {
    checkMade(there, asked, { plans: await plansFor(settled, source, planning), texts });
  }
  const rest = settled.filter(({ path }) => !there.has(path));
  const plans = await plansFor(rest, source, planning);
  if (!parsed.get("quiet")) {
    for (const path of there.keys()) host.err.write(`sluice: ${quote(path)} is there already\n`);
    host.err.write(`sluice: ${outputsSentence(plans)}\n`);
    const { calibration, evaluation } = texts;
    if (calibration) host.err.write(`sluice: calibrated on ${corpusSentence(calibration)}\n`);
    if (evaluation) host.err.write(`sluice: measured on ${corpusSentence(evaluation)}\n`);
  }
  const inputs = await inputsOf(texts, { plans, host, stack });
  halt.begin({ saves: resume });
  const whole: string[] = [];
  const line = commandLine(command, { parsed, source, texts });
  const planned = outputs.map(({ name, path }, i) => {
    const sink = sinks[i]!;
    return {
      plan: plans[i]!,
      sink: {
        ...sink,
        async commit() {
          await sink.commit();
          whole.push(path);
        },
      },
      command: line,
      report: (event: Event) => report({ ...event, output: name }),
    };
  });
  try {
    const reports = await runOutputs(planned, {
      source,
      backend,
      report,
      signal: host.signal,
      halt: halt.controller,
      ...(energyTable ? { energyTable } : {}),
      // What a killed run had left is no business of this one's result.
      warnings: views.warnings.filter(({ code }) => code !== LEFT_BEHIND),
      residentBytes: host.residentBytes,
      currentBytes: host.currentBytes,
      ...inputs,
    });
    tell({ outputs, plans, reports }, { parsed, host });
  } catch (cause) {
    if (whole.length === 0) throw keptOfAll(sinks, cause) ?? cause;
    throw new CheckpointStays(whole.join(", "), { next: undefined, cause });
  }
}

/** What stopped a run whose outputs can all be gone on with: by the one that is least far. */
function keptOfAll(sinks: readonly Sink[], cause: unknown): Error | undefined {
  const kept = sinks.map((sink) => keptOf(sink, cause));
  if (kept.some((one) => one === undefined)) return undefined;
  return kept.toSorted((a, b) => a!.units - b!.units)[0];
}

/** Print what came of a run. */
function tell(
  { outputs, plans, reports }: {
    readonly outputs: readonly (PlacedRecipe & { readonly recipe: Recipe })[];
    readonly plans: readonly Plan[];
    readonly reports: readonly RunReport[];
  },
  { parsed, host }: { readonly parsed: ParsedArguments; readonly host: Host },
): void {
  const [{ seconds, peakBytes }] = reports as readonly [RunReport];
  if (parsed.get("json")) {
    host.out.write(jsonLine({
      type: "result",
      outputs: reports.map(({ record, warnings }, i) => ({
        output: outputs[i]!.path,
        ...recordDocument(record),
        warnings: shownWarnings(warnings, parsed),
        loaders: plans[i]!.loaders,
      })),
      seconds,
      peakBytes,
      plannedMemory: memoryOf(plans),
    }));
  } else if (!parsed.get("quiet")) {
    const made = reports.map((report, i) => ({ ...outputs[i]!, plan: plans[i]!, report }));
    host.out.write(showOutputs(made));
  }
}
