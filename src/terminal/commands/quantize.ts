/** `sluice quantize`: plan, run, and tell what came of it. */
import type { Command, Host, ParsedArguments } from "../command.ts";
import { RequestError } from "../../errors.ts";
import { LEFT_BEHIND } from "../../io/left_behind.ts";
import type { Plan } from "../../plan/planned.ts";
import type { Recipe } from "../../recipe.ts";
import type { RunReport } from "../../report/run_report.ts";
import { run } from "../../run.ts";
import { unstored } from "../../formats/unstored.ts";
import { openFolderSink } from "../../sinks/folder.ts";
import { openNowhere } from "../../sinks/nowhere.ts";
import { makeReport, REPORT_FILES } from "../../report/files.ts";
import { CheckpointStays } from "../faults.ts";
import { jsonLine, recordDocument } from "../json.ts";
import {
  checkRepo,
  PUBLISH_FLAGS,
  publishCheckpoint,
  publishedPaths,
  publishLine,
  refuseUnpublished,
  uploadAlongside,
} from "./publish.ts";
import { planSentence } from "../plan_view.ts";
import { askedReportFolder, type ReportFolder } from "../report_folder.ts";
import { showRun, showTensors, tensorsCsv } from "../result_view.ts";
import { timelineSvg } from "../timeline_view.ts";
import { tryPaths } from "../written_paths.ts";
import { askedBits, BITS_FLAGS } from "./bits.ts";
import { BOUND_FLAGS } from "./bounds.ts";
import { BUDGET_FLAGS } from "./budgets.ts";
import { commandLine } from "./command_line.ts";
import {
  CALIBRATION_FLAGS,
  corpusSentence,
  DEVICE_FLAGS,
  EVALUATE_FLAG,
  EVALUATION_FLAGS,
  MODEL,
  openDevice,
  PLAN_FLAG,
  readRecipe,
  RECIPE_FLAGS,
} from "./flags.ts";
import { Halt } from "./halt.ts";
import { chooseRecipe, refuseUnkept } from "./guarantee.ts";
import { beginViews, MESSAGE_FLAGS, openViews, shownWarnings } from "./messages.ts";
import type { KeptSearch } from "./kept_search.ts";
import { checkApart, openModel } from "./model.ts";
import { askedOutputs } from "./output_folders.ts";
import { keptOf, placeOf, removeSearch } from "./output_place.ts";
import { ENERGY_FLAG, isResumable, readEnergyTable, RESUME_FLAG, showPlanned } from "./planned.ts";
import { publishMade, wholeOutput } from "./publish_made.ts";
import { askedPlan } from "./saved_plan.ts";
import { roomFor } from "./upload_room.ts";
import { inputsOf, planFor, readTexts, settleRecipe, type Texts } from "./walks.ts";

const OUTPUT_GROUP = "Output";

/** `sluice quantize MODEL --output DIR` */
export const quantizeCommand: Command = {
  arguments: [MODEL],
  flags: [
    ...RECIPE_FLAGS,
    ...BITS_FLAGS,
    ...BOUND_FLAGS,
    {
      name: "output",
      short: "o",
      type: "string",
      placeholder: "folder",
      path: true,
      help: "where the result goes: a folder that is not there yet; where a recipe has several " +
        "outputs, the folder of their folders",
      group: OUTPUT_GROUP,
    },
    {
      name: "overwrite",
      type: "boolean",
      help: "replace the checkpoint in that folder, once the new one is whole",
      default: false,
      group: OUTPUT_GROUP,
    },
    PLAN_FLAG,
    RESUME_FLAG,
    {
      name: "restart",
      type: "boolean",
      help: "begin anew, whatever a run into that folder that was stopped has left",
      default: false,
      group: OUTPUT_GROUP,
    },
    {
      name: "upload-repo",
      type: "string",
      placeholder: "org/name",
      help: "publish the result on the Hub; without --output nothing stays here, unless that fails",
      group: OUTPUT_GROUP,
    },
    ...PUBLISH_FLAGS,
    {
      name: "dry-run",
      type: "boolean",
      help: "show the plan and stop",
      default: false,
      group: OUTPUT_GROUP,
    },
    ...CALIBRATION_FLAGS,
    EVALUATE_FLAG,
    ...EVALUATION_FLAGS,
    {
      name: "metrics",
      type: "string",
      placeholder: "file.csv",
      path: true,
      writes: true,
      help:
        "measure each weight (SQNR; PSNR, its peak the largest weight; cosine; EMD, within 1/16384 of " +
        "the largest weight and error together; largest error): a table, or a CSV file",
      bare: true,
      group: "Measuring",
    },
    ENERGY_FLAG,
    {
      name: "report",
      type: "string",
      placeholder: "folder",
      path: true,
      help:
        "what became of each layer, as report.html, report.json and report.csv: a new folder, " +
        "or one that holds a report",
      group: "Measuring",
    },
    {
      name: "timeline",
      type: "string",
      placeholder: "file.svg",
      path: true,
      writes: true,
      help: "draw when bytes came in, the device was busy, and bytes went out",
      group: "Measuring",
    },
    ...DEVICE_FLAGS,
    ...BUDGET_FLAGS,
    ...MESSAGE_FLAGS,
  ],
  examples: [
    ["quantize sample --output out", "int4 in groups of 128, the default scheme W4A16"],
    [
      "quantize ./SmolLM2-135M --scheme W4A16 --group-size 64 --evaluate --output SmolLM2-int4",
      "int4 in groups of 64, with perplexity before and after",
    ],
    [
      "quantize ./model --recipe outputs.yaml --evaluate --output made",
      "several checkpoints by one read: outputs: [{ scheme: NF4 }, { scheme: W8A8 }] in the recipe",
    ],
    [
      "quantize ./model --max-kl 0.05 --calibration train.txt --corpus held-out.txt --output out",
      "the fewest bytes whose KL divergence is below 0.05 with 95 % confidence",
    ],
  ],
  leaves: true,
  run: quantize,
};

async function quantize(given: ParsedArguments, host: Host): Promise<void> {
  const saved = await askedPlan(given, { command: quantizeCommand, host });
  const parsed = saved?.parsed ?? given;
  if (parsed.get("dry-run")) return await showPlanned(parsed, host);
  const outputs = await askedOutputs(parsed, host);
  if (outputs) {
    // Only then: few recipes have several.
    const { quantizeOutputs } = await import("./quantize_outputs.ts");
    return await quantizeOutputs(outputs, { command: quantizeCommand, parsed, host });
  }
  const made = await wholeOutput(parsed, host);
  if (made) return await publishMade(made, { command: quantizeCommand, parsed, saved, host });
  const [model] = parsed.arguments as [string];
  const upload = parsed.get("upload-repo");
  await using stack = new AsyncDisposableStack();
  const base = saved?.recipe ?? await readRecipe(parsed, host);
  const isKept = base.format !== unstored.name;
  // A folder that is made up for this run is nobody's to go on with.
  const resume = isResumable(base, parsed) && parsed.get("output") !== undefined;
  if (!isKept) refuseUnmeasured(parsed);
  const place = isKept ? await placeOf(parsed, host, stack) : undefined;
  await tryPaths(quantizeCommand, { parsed, output: place?.path, host });
  if (upload !== undefined) await checkRepo(String(upload), { parsed, host });
  else refuseUnpublished(parsed);
  const bits = askedBits(parsed);
  const energyTable = await readEnergyTable(parsed, host);
  const views = stack.use(await beginViews(parsed, host));
  if (place) await checkApart(model, place.path);
  const folder = stack.use(
    await askedReportFolder(parsed, {
      ...(place ? { output: place.path } : {}),
      files: REPORT_FILES,
      host,
    }),
  );
  const sink = stack.use(
    place
      ? await openFolderSink(place.path, {
        overwrite: parsed.get("overwrite") === true,
        restart: parsed.get("restart") === true,
        resume,
        others: host.otherOutputs ?? [],
        report: views.report,
      })
      : openNowhere(),
  );
  const halt = stack.use(new Halt(host));
  const reading = { ...host, signal: halt.controller.signal };
  const source = await openModel(model, { parsed, host: reading, report: views.report, stack });
  const backend = stack.use(await openDevice(parsed, views.report));
  const kept = bits && resume
    ? stack.use(await keptSearch(place!.path, { parsed, host }))
    : undefined;
  const choosing = { parsed, source, backend, host, kept, report: views.report };
  const found = await chooseRecipe(base, bits, choosing).catch((cause) => {
    throw kept?.stopped(cause) ?? cause;
  });
  const texts = found.texts ?? await readTexts(parsed, {
    source,
    recipes: [{ name: "", recipe: found.recipe }],
    host,
    report: views.report,
    sensed: bits !== undefined,
  });
  const walked = { parsed, device: backend, texts, host, resume };
  const planned = saved?.of(source) ??
    await planFor(
      await settle(found.recipe, { parsed, source, backend, texts, host }),
      source,
      walked,
    );
  const destination = upload === undefined
    ? undefined
    : await checkRepo(String(upload), { parsed, host }, publishedPaths(planned));
  if (!parsed.get("quiet")) tellPlan(planned, texts, host);
  const alongside = destination && stack.use(
    await uploadAlongside(sink, {
      destination,
      planned,
      room: roomFor(planned, { parsed, staged: source.schedule !== undefined }),
      parsed,
      host,
      report: views.report,
    }),
  );
  const growing = alongside?.sink ?? sink;
  const inputs = await inputsOf(texts, { plans: [planned], host, stack });
  await saved?.check(planned, { source, backend, ...inputs });
  let whole = false;
  halt.begin({ saves: resume });
  try {
    const report = await run(planned, {
      source,
      backend,
      sink: {
        ...growing,
        async commit() {
          await growing.commit();
          whole = true;
          await kept?.[Symbol.asyncDispose]();
          if (place) await removeSearch(place.path);
        },
      },
      report: views.report,
      signal: host.signal,
      halt: halt.controller,
      metrics: parsed.has("metrics") || folder !== undefined,
      distributions: folder !== undefined,
      ...(energyTable ? { energyTable } : {}),
      ...(found.certify ? { certify: found.certify } : {}),
      command: commandLine(quantizeCommand, { parsed, source, texts }),
      // What a killed run had left is no business of this one's result.
      warnings: views.warnings.filter(({ code }) => code !== LEFT_BEHIND),
      residentBytes: host.residentBytes,
      currentBytes: host.currentBytes,
      ...inputs,
    });
    await writeFiles(parsed, { plan: planned, report, folder, host });
    tellResult(parsed, { plan: planned, report, host });
    const { certificate, bits_per_weight } = report.record;
    if (certificate) refuseUnkept(certificate, bits_per_weight);
    if (!place || !alongside) return;
    views[Symbol.dispose]();
    const { loaders } = planned;
    const publishing = { parsed, host, backend, alongside, loaders };
    await publishCheckpoint(place.path, String(upload), publishing);
  } catch (cause) {
    if (!place || !whole) throw keptOf(sink, cause) ?? kept?.stopped(cause) ?? cause;
    await place.keep();
    throw new CheckpointStays(place.path, {
      next: upload === undefined ? undefined : publishLine(place.path, String(upload), parsed),
      cause,
    });
  }
}

/** What an earlier search for bits has measured, and where this one keeps it. */
async function keptSearch(
  output: string,
  { parsed, host }: { readonly parsed: ParsedArguments; readonly host: Host },
): Promise<KeptSearch> {
  const { KeptSearch } = await import("./kept_search.ts");
  const tell = (line: string) => parsed.get("quiet") || host.err.write(`sluice: ${line}\n`);
  return await KeptSearch.open(output, { restart: parsed.get("restart") === true, tell });
}

/** @throws {RequestError} nothing is stored, and it is said where, or nothing is measured. */
function refuseUnmeasured(parsed: ParsedArguments): void {
  const flag = ["output", "overwrite", "restart", "upload-repo"].find((name) => parsed.has(name));
  if (flag !== undefined) {
    throw new RequestError(`Cannot use --${flag} with format none: nothing is stored.`);
  }
  if (["evaluate", "metrics", "report"].some((name) => parsed.has(name))) return;
  throw new RequestError(
    "Cannot quantize with format none: nothing would come of it. Measure something: --evaluate, " +
      "--metrics or --report.",
  );
}

/** Say what the run that begins will make, and of what texts. */
function tellPlan(planned: Plan, { calibration, evaluation }: Texts, { err }: Host): void {
  err.write(`sluice: ${planSentence(planned)}\n`);
  if (calibration) err.write(`sluice: calibrated on ${corpusSentence(calibration)}\n`);
  if (evaluation) err.write(`sluice: measured on ${corpusSentence(evaluation)}\n`);
}

/** What came of a run. */
interface Made {
  readonly plan: Plan;
  readonly report: RunReport;
  readonly host: Host;
}

/** Write the files beside the checkpoint that the flags ask for. */
async function writeFiles(
  parsed: ParsedArguments,
  { plan, report, folder, host }: Made & { readonly folder: ReportFolder | undefined },
): Promise<void> {
  const csv = parsed.get("metrics");
  if (typeof csv === "string") await host.writeText(csv, await tensorsCsv(report.tensors));
  const svg = parsed.get("timeline");
  if (svg !== undefined) {
    await host.writeText(String(svg), await timelineSvg(report.timeline, planSentence(plan)));
  }
  await folder?.write(await makeReport(plan, report, { created: new Date().toISOString() }));
}

/** Print what came of a run. */
function tellResult(parsed: ParsedArguments, { plan, report, host }: Made): void {
  // Without a folder of its own, what was made is not here for long.
  const [output, folder] = [parsed.get("output"), parsed.get("report")];
  if (parsed.get("json")) {
    host.out.write(jsonLine({
      type: "result",
      output,
      report: folder,
      ...recordDocument(report.record),
      warnings: shownWarnings(report.warnings, parsed),
      seconds: report.seconds,
      peakBytes: report.peakBytes,
      plannedMemory: plan.memory,
      timeline: report.timeline,
      loaders: plan.loaders,
    }));
  } else if (!parsed.get("quiet")) {
    if (parsed.get("metrics") === true) host.out.write(showTensors(report.tensors) + "\n");
    host.out.write(
      showRun({
        plan,
        report,
        ...(output === undefined ? {} : { output: String(output) }),
        ...(folder === undefined ? {} : { folder: String(folder) }),
      }),
    );
  }
}

/** See {@linkcode settleRecipe}; its progress is shown apart from that of the run. */
async function settle(
  recipe: Recipe,
  { parsed, host, ...found }: Omit<Parameters<typeof settleRecipe>[1], "report">,
): Promise<Recipe> {
  if (recipe.outlierQuantile === undefined) return recipe;
  using views = openViews(parsed, host);
  return await settleRecipe(recipe, { parsed, host, ...found, report: views.report });
}
