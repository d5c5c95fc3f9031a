/**
 * `--upload-repo` where the output is there, whole: `quantize` or `merge` was killed, or the Hub
 * could not be reached, between its last rename and the commit. The same command makes the commit.
 * Refused: an output that is not what the command would make.
 */
import { dirname, resolve } from "node:path";
import type { Backend } from "../../backend.ts";
import { disk } from "../../io/disk.ts";
import { RECORD_FILE } from "../../io/names.ts";
import type { Plan } from "../../plan/planned.ts";
import type { Recipe } from "../../recipe.ts";
import { parseRecipe } from "../../recipe_file.ts";
import { steers } from "../../report/certificate.ts";
import { differenceFrom, type RunRecord } from "../../report/record.ts";
import { sweepStages } from "../../sinks/stage.ts";
import type { TensorSource } from "../../source.ts";
import { windowsOf } from "../../windows.ts";
import type { Command, Host, ParsedArguments } from "../command.ts";
import { CheckpointStays } from "../faults.ts";
import { jsonLine, recordDocument } from "../json.ts";
import { visible } from "../text.ts";
import { askedBits } from "./bits.ts";
import { commandLine } from "./command_line.ts";
import { openDevice, readRecipe } from "./flags.ts";
import { refuseUnkept } from "./guarantee.ts";
import { otherThere, recordIn } from "./made_before.ts";
import { beginViews, shownWarnings, type Watch } from "./messages.ts";
import { openModel } from "./model.ts";
import { isResumable } from "./planned.ts";
import { checkRepo, publishCheckpoint, publishLine } from "./publish.ts";
import type { AskedPlan } from "./saved_plan.ts";
import { planFor, readTexts, settleRecipe, type Texts } from "./walks.ts";

/** An output that is there. */
export interface WholeOutput {
  readonly path: string;
  readonly record: RunRecord;
}

/** The output of a command that publishes it, if it is there and not to be replaced. */
export async function wholeOutput(
  parsed: ParsedArguments,
  host: Host,
): Promise<WholeOutput | undefined> {
  const output = parsed.get("output");
  if (output === undefined || !parsed.has("upload-repo")) return undefined;
  if (["overwrite", "restart"].some((flag) => isGiven(parsed, flag))) return undefined;
  const record = await recordIn(String(output), host);
  return record && { path: String(output), record };
}

/** Whether a flag that a command may have was given, and not as its opposite. */
function isGiven(parsed: ParsedArguments, flag: string): boolean {
  const value = parsed.knows(flag) ? parsed.get(flag) : undefined;
  return value !== undefined && value !== false;
}

/**
 * See that it is what the command makes, and publish it.
 *
 * @throws {RequestError} it is another.
 */
export async function publishMade(
  { path, record }: WholeOutput,
  { command, parsed, saved, host }: {
    readonly command: Command;
    readonly parsed: ParsedArguments;
    /** The plan that the command runs, where it is in a file. */
    readonly saved: AskedPlan | undefined;
    readonly host: Host;
  },
): Promise<void> {
  await checkRepo(String(parsed.get("upload-repo")), { parsed, host });
  await using stack = new AsyncDisposableStack();
  const views = stack.use(await beginViews(parsed, host));
  const { report } = views;
  await sweepStages(disk, dirname(resolve(path)), { targets: [], report });
  const source = await openModel(parsed.arguments[0]!, { parsed, host, report, stack });
  const backend = stack.use(await openDevice(parsed, report));
  const asked = await askedOf(record, { parsed, saved, source, host, views });
  const { texts } = asked;
  const recipe = await settleRecipe(asked.recipe, {
    ...{ parsed, source, backend, texts, host, report },
  });
  const resume = isResumable(recipe, parsed);
  const planned = saved?.of(source) ??
    await planFor(recipe, source, { parsed, device: backend, texts, host, resume });
  const line = commandLine(command, { parsed, source, texts });
  const other = asked.searched && record.command !== line ? "command" : undefined;
  await publishWhole({ path, record }, { planned, texts, other, parsed, host, backend, views });
}

/**
 * Publish an output that is there, if it is that of a plan.
 *
 * @param options.other What is known to differ.
 * @throws {RequestError} it is another.
 */
export async function publishWhole(
  { path, record }: WholeOutput,
  { planned, texts, other, parsed, host, backend, views }: {
    readonly planned: Plan;
    readonly texts: Partial<Parameters<typeof differenceFrom>[2]>;
    readonly other?: string | undefined;
    readonly parsed: ParsedArguments;
    readonly host: Host;
    readonly backend: Backend;
    readonly views: Watch;
  },
): Promise<void> {
  const repo = String(parsed.get("upload-repo"));
  const { calibration, evaluation } = texts;
  const differs = differenceFrom(record, planned, { calibration, evaluation }) ?? other;
  if (differs !== undefined) throw otherThere(path, differs);
  if (record.certificate) refuseUnkept(record.certificate, record.bits_per_weight);
  if (!parsed.get("quiet")) {
    host.err.write(`sluice: ${visible(path)} is there already, whole; it is published now\n`);
    for (const flag of ["report", "metrics", "timeline"]) {
      if (!isGiven(parsed, flag)) continue;
      host.err.write(
        `sluice: --${flag} tells of a run, and nothing is run: ${
          flag === "metrics" ? "they stay" : "it stays"
        } as the earlier one left it\n`,
      );
    }
  }
  if (parsed.get("json")) {
    host.out.write(jsonLine({
      type: "result",
      output: path,
      report: undefined,
      ...recordDocument(record),
      warnings: shownWarnings(views.warnings, parsed),
      seconds: undefined,
      peakBytes: undefined,
      plannedMemory: planned.memory,
      timeline: undefined,
      loaders: planned.loaders,
    }));
  }
  views[Symbol.dispose]();
  try {
    const { loaders } = planned;
    await publishCheckpoint(path, repo, { parsed, host, backend, loaders });
  } catch (cause) {
    throw new CheckpointStays(path, { next: publishLine(path, repo, parsed), cause });
  }
}

/**
 * What the command asks for. Where it has the recipe searched for, that is long: the one that was
 * found is in the record, and holds if the whole command is the same.
 */
async function askedOf(
  record: RunRecord,
  { parsed, saved, source, host, views: { report } }: {
    readonly parsed: ParsedArguments;
    readonly saved: AskedPlan | undefined;
    readonly source: TensorSource;
    readonly host: Host;
    readonly views: Watch;
  },
): Promise<{ readonly recipe: Recipe; readonly texts: Texts; readonly searched: boolean }> {
  const bits = askedBits(parsed);
  const base = saved?.recipe ?? await readRecipe(parsed, host);
  const searched = bits !== undefined;
  const bounded = bits !== undefined && "within" in bits;
  const recipe = searched ? parseRecipe(JSON.stringify(record.recipe), RECORD_FILE) : base;
  const texts = await readTexts(parsed, {
    source,
    recipes: [{ name: "", recipe: bounded ? base : recipe }],
    host,
    report,
    sensed: searched,
    searched: bounded,
  });
  if (!bounded || !texts.evaluation) return { recipe, texts, searched };
  // The others had steered the search.
  const evaluation = await windowsOf(texts.evaluation, (window) => !steers(window));
  return { recipe, texts: { ...texts, evaluation }, searched };
}
