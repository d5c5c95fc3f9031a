/** `sluice quantize`: plan, run, and tell what came of it. */
import type { Command, Host, Said } from "../command.ts";
import { RequestError } from "../../errors.ts";
import { plan } from "../../plan.ts";
import type { Recipe } from "../../recipe.ts";
import type { Event } from "../../report.ts";
import { run, type RunReport } from "../../run.ts";
import { openFolderSink } from "../../sinks/folder.ts";
import { isOnHub } from "../../open.ts";
import { factsOfRun } from "../../card_facts.ts";
import { makeReport } from "../../report_files.ts";
import type { CardBase } from "../../model_card.ts";
import { readSourceCard } from "../../source_card.ts";
import type { TensorSource } from "../../source.ts";
import { checkRepo, PUBLISH_FLAGS, publishFolder, verifyForPublishing } from "./publish.ts";
import { planSentence } from "../plan_view.ts";
import { jsonLine } from "../progress.ts";
import { openReportFolder } from "../report_folder.ts";
import { showRun, showTensors, tensorsCsv } from "../result_view.ts";
import { timelineSvg } from "../timeline_view.ts";
import { BUDGET_FLAGS, budgetsOf } from "./budgets.ts";
import {
  CALIBRATION_FLAGS,
  corpusSentence,
  DEVICE_FLAGS,
  EVALUATION_FLAGS,
  MESSAGE_FLAGS,
  MODEL,
  openDevice,
  openViews,
  readRecipe,
  RECIPE_FLAGS,
} from "./flags.ts";
import { checkApart, openModel } from "./model.ts";
import { EVALUATE_FLAG, showPlanned } from "./plan.ts";
import { inputsOf, readTexts, requestsOf, settleRecipe } from "./walks.ts";

const OUTPUT_GROUP = "Output";

/** `sluice quantize MODEL --output DIR` */
export const quantizeCommand: Command = {
  name: "quantize",
  summary: "quantize a checkpoint and write one that loads",
  arguments: [MODEL],
  flags: [
    ...RECIPE_FLAGS,
    {
      name: "output",
      short: "o",
      type: "string",
      placeholder: "folder",
      help: "where the result goes: a folder that is not there yet",
      group: OUTPUT_GROUP,
    },
    {
      name: "overwrite",
      type: "boolean",
      help: "replace the checkpoint in that folder, once the new one is whole",
      default: false,
      group: OUTPUT_GROUP,
    },
    {
      name: "upload-repo",
      type: "string",
      placeholder: "org/name",
      help: "publish the result on the Hub; without --output nothing stays here",
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
      help:
        "measure each weight (SQNR; PSNR, its peak the largest weight; cosine; EMD, within 1/16384 of " +
        "the largest weight and error together; largest error): a table, or a CSV file",
      bare: true,
      group: "Measuring",
    },
    {
      name: "report",
      type: "string",
      placeholder: "folder",
      help:
        "what became of each layer, as report.html, report.json and report.csv: a new folder, " +
        "or one that holds a report",
      group: "Measuring",
    },
    {
      name: "timeline",
      type: "string",
      placeholder: "file.svg",
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
    ["quantize ./SmolLM2-135M --scheme NF4 --output SmolLM2-nf4", "4 bits for bitsandbytes"],
    [
      "quantize ./model --recipe recipe.yaml --metrics errors.csv --output out",
      "by a recipe, with the error of each weight in a table",
    ],
  ],
  run: quantize,
};

async function quantize(said: Said, host: Host): Promise<void> {
  if (said.get("dry-run")) return await showPlanned(said, host);
  const [model] = said.arguments as [string];
  const upload = said.get("upload-repo");
  await using stack = new AsyncDisposableStack();
  const output = said.get("output") ??
    (upload === undefined
      ? undefined
      : `${stack.use(await host.temporaryFolder()).path}/checkpoint`);
  if (output === undefined) {
    throw new RequestError(
      "Cannot quantize: say where the result goes, --output and a new folder (or --dry-run).",
    );
  }
  if (upload !== undefined) await checkRepo(String(upload), { said, host });
  const asked = await readRecipe(said, host);
  const views = stack.use(openViews(said, host));
  const warnings: RunReport["warnings"][number][] = [];
  const watched = (event: Event) => {
    if (event.type === "warning") warnings.push({ code: event.code, message: event.message });
    views.report(event);
  };
  const source = await openModel(model, { said, host, report: watched, stack });
  await checkApart(model, String(output));
  const reporting = said.get("report");
  const folder = reporting === undefined
    ? undefined
    : stack.use(await openReportFolder(String(reporting), { output: String(output), host }));
  const sink = stack.use(
    await openFolderSink(String(output), { overwrite: said.get("overwrite") === true }),
  );
  const backend = stack.use(await openDevice(said, watched));
  const texts = await readTexts(said, { source, recipe: asked, host, report: watched });
  const recipe = await settle(asked, { said, source, backend, texts, host });
  const { evaluation: windows, calibration } = texts;
  const planned = plan(recipe, source, {
    device: backend,
    ...requestsOf(texts),
    budgets: budgetsOf(said, { staged: source.schedule !== undefined }),
  });
  if (!said.get("quiet")) {
    host.err.write(`sluice: ${planSentence(planned)}\n`);
    if (calibration) host.err.write(`sluice: calibrated on ${corpusSentence(calibration)}\n`);
    if (windows) host.err.write(`sluice: measured on ${corpusSentence(windows)}\n`);
  }
  const report = await run(planned, {
    source,
    backend,
    sink,
    report: views.report,
    signal: host.signal,
    metrics: said.has("metrics") || folder !== undefined,
    distributions: folder !== undefined,
    residentBytes: host.residentBytes,
    currentBytes: host.currentBytes,
    ...await inputsOf(texts, { plan: planned, host, stack }),
  });
  const csv = said.get("metrics");
  if (typeof csv === "string") await host.writeText(csv, tensorsCsv(report.tensors));
  const svg = said.get("timeline");
  if (svg !== undefined) {
    await host.writeText(String(svg), await timelineSvg(report.timeline, planSentence(planned)));
  }
  await folder?.write(
    await makeReport(planned, report, {
      version: host.version,
      created: new Date().toISOString(),
      command: commandLine(quantizeCommand, said),
      calibration,
      evaluation: windows,
      warnings,
    }),
  );
  if (said.get("json")) {
    host.out.write(jsonLine({
      type: "result",
      output,
      ...(folder ? { report: String(reporting) } : {}),
      format: planned.format.name,
      source_bytes: planned.sourceBytes,
      total_bytes: planned.totalBytes,
      bits_per_weight: planned.bitsPerWeight,
      planned_memory: planned.memory.peak,
      peak_memory: report.peakBytes,
      seconds: report.seconds,
      scores: report.scores,
      timeline: report.timeline,
      loaders: planned.loaders,
    }));
  } else if (!said.get("quiet")) {
    if (csv === true) host.out.write(showTensors(report.tensors) + "\n");
    host.out.write(
      showRun({
        output: String(output),
        plan: planned,
        report,
        ...(folder ? { folder: String(reporting) } : {}),
      }),
    );
  }
  if (upload === undefined) return;
  const facts = {
    ...factsOfRun(planned, { report, config: source.config }),
    base: await baseOf(model, source),
    command: commandLine(quantizeCommand, said),
    ...(said.has("recipe")
      ? {
        recipe: {
          language: "yaml" as const,
          text: await host.readText(String(said.get("recipe"))),
        },
      }
      : {}),
    versions: { Sluice: host.version, Deno: Deno.version.deno },
    device: backend.description,
    ...(windows
      ? {
        protocol: {
          corpus: String(said.get("corpus")),
          seqLen: windows.seqLen,
          windows: windows.windows.length,
          available: windows.available,
        },
      }
      : {}),
  };
  const verified = await verifyForPublishing(String(output), { backend, host });
  views[Symbol.dispose]();
  const publication = { folder: String(output), repo: String(upload), facts, verified };
  await publishFolder(publication, { said, host });
}

/** See {@linkcode settleRecipe}; its progress is shown apart from that of the run. */
async function settle(
  recipe: Recipe,
  { said, host, ...found }: Omit<Parameters<typeof settleRecipe>[1], "report">,
): Promise<Recipe> {
  if (recipe.outlierQuantile === undefined) return recipe;
  using views = openViews(said, host);
  return await settleRecipe(recipe, { said, host, ...found, report: views.report });
}

/** What the card says of the model it was made of: its name on the Hub, never a path. */
async function baseOf(model: string, source: TensorSource): Promise<CardBase> {
  const card = await source.modelCard?.();
  const [id, commit] = source.id.split("@");
  return {
    ...(isOnHub(model) && id && commit ? { id, commit } : {}),
    ...(card === undefined ? {} : { card: readSourceCard(card) }),
  };
}

/** The command as others can repeat it: a path on this machine is replaced. */
function commandLine({ name, flags }: Command, said: Said): string {
  const [model] = said.arguments;
  const words = flags.filter((flag) => said.has(flag.name)).flatMap((flag) => {
    const values = flag.repeat ? said.all(flag.name) : [said.get(flag.name)];
    return values.map((value) =>
      value === true
        ? `--${flag.name}`
        : `--${flag.name} ${
          ["output", "recipe", "log-file", "report", "timeline"].includes(flag.name)
            ? flag.placeholder
            : value
        }`
    );
  });
  const named = model === "sample" || isOnHub(model!) ? model : "./model";
  return ["sluice", name, named, ...words].join(" ");
}
