/**
 * A plan that machines share: what `plan --work-dir` keeps of a command line, and how `work` and
 * `merge` make the same plan of it.
 */
import type { Backend } from "../../backend.ts";
import { quote, RequestError, UnsupportedError } from "../../errors.ts";
import { isHubPlace } from "../../meeting/names.ts";
import type { Plan } from "../../plan/planned.ts";
import { type SharedBytes, sharedBytes } from "../../plan/shared.ts";
import { recipeDocument } from "../../recipe.ts";
import { recipeFromDocument } from "../../recipe_file.ts";
import type { Reporter } from "../../report.ts";
import type { RunOptions } from "../../run/context.ts";
import { changesOf, type Ingredients, ingredientsOf, keyOf } from "../../run/key.ts";
import type { MeetingPlace } from "../../run/meeting_place.ts";
import { unitBytes } from "../../run/shared_unit.ts";
import { isShareable } from "../../run/worker.ts";
import { JOB_FILE, type WorkJob } from "../../run/work_job.ts";
import type { TensorSource } from "../../source.ts";
import type { Flag, Host, ParsedArguments } from "../command.ts";
import { parseArguments } from "../parser.ts";
import { BITS_FLAGS } from "./bits.ts";
import { BOUND_FLAGS } from "./bounds.ts";
import { BUDGET_FLAGS } from "./budgets.ts";
import { commandLine } from "./command_line.ts";
import {
  CALIBRATION_FLAGS,
  DEVICE_FLAGS,
  openDevice,
  readOutputs,
  readRecipe,
  RECIPE_FLAGS,
} from "./flags.ts";
import { makePlace } from "./meeting.ts";
import { whole, wordsOf } from "./flag_words.ts";
import { openModel } from "./model.ts";
import { quantizeCommand } from "./quantize.ts";
import { inputsOf, planFor, readTexts } from "./walks.ts";

/** Flags that each worker has of its own, in place of those that the plan was made with. */
export const OWN_FLAGS: readonly Flag[] = [...DEVICE_FLAGS, ...BUDGET_FLAGS];

const KEPT_FLAGS: readonly Flag[] = [...RECIPE_FLAGS, ...CALIBRATION_FLAGS, ...OWN_FLAGS];

/** A plan, and what it takes to do it. */
export interface SharedPlan {
  readonly plan: Plan;
  readonly source: TensorSource;
  readonly backend: Backend;
  readonly inputs: Pick<RunOptions, "calibration">;
  readonly ingredients: Ingredients;
  /** As others can repeat it on one machine. */
  readonly command: string;
}

/** A job that was begun. */
export interface BegunJob {
  readonly place: MeetingPlace;
  /** What the place takes. */
  readonly bytes: SharedBytes;
  /** Bytes of the largest unit. */
  readonly unitBytes: number;
}

/**
 * Make the place where workers meet.
 *
 * @param path A folder, or `hf://org/name`.
 * @param stack Ends the way to it.
 * @throws {RequestError} a flag cannot be shared, or something else is there.
 * @throws {UnsupportedError} the units of the plan depend on each other.
 * @throws {HubError} the Hub refuses it, or cannot be asked.
 */
export async function beginJob(
  path: string,
  { parsed, host, report, stack }: {
    readonly parsed: ParsedArguments;
    readonly host: Host;
    readonly report: Reporter;
    readonly stack: AsyncDisposableStack;
  },
): Promise<BegunJob> {
  const search = [...BITS_FLAGS, ...BOUND_FLAGS].find(({ name }) => parsed.has(name));
  if (search) {
    throw new RequestError(
      `Cannot use --${search.name} with --work-dir: what it finds is to be settled before. Have ` +
        "`plan` write it with --save-recipe, and give that as --recipe.",
    );
  }
  if (await readOutputs(parsed, host)) {
    throw new RequestError(
      "Cannot use --work-dir with a recipe of several outputs: machines can share the plan of one " +
        "output only. Give each output a recipe and a --work-dir of its own.",
    );
  }
  const words = [await whole(parsed.arguments[0]!), ...await wordsOf(parsed, KEPT_FLAGS)];
  const { plan, ingredients, backend } = await prepare({ words }, { host, report, stack });
  const shareable = isShareable(plan, { together: !isHubPlace(path) });
  if (parsed.get("evaluate") === true || shareable !== true) {
    const reason = shareable !== true
      ? shareable
      : "it is measured in the same pass, which is one machine's. Leave out --evaluate, and " +
        "measure what was merged: sluice evaluate FOLDER --reference MODEL";
    throw new UnsupportedError(`Cannot share the plan among machines: ${reason}.`, {
      what: "work-dir",
      reason,
    });
  }
  const job: WorkJob = {
    job: 1,
    key: await keyOf(ingredients),
    ingredients,
    words,
    recipe: recipeDocument(plan.recipe),
    units: plan.units.map(({ name }) => name),
  };
  const place = await makePlace(path, job, { host, report, stack });
  return {
    place,
    bytes: sharedBytes(plan, backend),
    unitBytes: Math.max(...plan.units.map(unitBytes)),
  };
}

/**
 * Make the plan of a job again, here.
 *
 * @throws {RequestError} it is another plan than that of the job, whose sentence says in what.
 */
export async function openJob(
  { job, path }: MeetingPlace,
  { parsed, host, report, stack }: {
    readonly parsed: ParsedArguments;
    readonly host: Host;
    readonly report: Reporter;
    readonly stack: AsyncDisposableStack;
  },
): Promise<SharedPlan> {
  const words = ownWords(job, parsed);
  const shared = await prepare({ words, recipe: job.recipe }, { host, report, stack });
  if (await keyOf(shared.ingredients) === job.key) return shared;
  const found = changesOf(job.ingredients, shared.ingredients).slice(0, 3).join("; ");
  throw new RequestError(
    `Cannot work in ${quote(path)}: the same plan cannot be made here: ${
      found === "" ? "its job.json was changed" : found
    }. All machines need the same version, model, texts and kind of device.`,
  );
}

/** The words of a job, but for flags that this worker has of its own. */
function ownWords({ words }: WorkJob, parsed: ParsedArguments): string[] {
  const own = OWN_FLAGS.filter(({ name }) => parsed.has(name));
  const values = own.map(({ name }) => `--${name}=${parsed.get(name)}`);
  return words.filter((word) => !own.some(({ name }) => word.startsWith(`--${name}=`)))
    .concat(values);
}

async function prepare(
  { words, recipe: kept }: Pick<WorkJob, "words"> & Partial<Pick<WorkJob, "recipe">>,
  { host, report, stack }: {
    readonly host: Host;
    readonly report: Reporter;
    readonly stack: AsyncDisposableStack;
  },
): Promise<SharedPlan> {
  const row = { name: "quantize", summary: "", load: () => Promise.resolve(quantizeCommand) };
  const { given } = (await parseArguments(["quantize", ...words], [row], host))!;
  const recipe = kept ? recipeFromDocument(kept, JOB_FILE) : await readRecipe(given, host);
  if (recipe.outlierQuantile !== undefined) {
    throw new RequestError(
      "Cannot use --outlier-quantile with --work-dir: each worker would look for the threshold. " +
        "Give --threshold.",
    );
  }
  const source = await openModel(given.arguments[0]!, { parsed: given, host, report, stack });
  const backend = stack.use(await openDevice(given, report));
  const texts = await readTexts(given, { source, recipes: [{ name: "", recipe }], host, report });
  const { changed: _, ...pinned } = source;
  const plan = await planFor(recipe, source, { parsed: given, device: backend, texts, host });
  const inputs = await inputsOf(texts, { plans: [plan], host, stack });
  return {
    plan,
    source,
    backend,
    inputs,
    // A copy of a model has other times.
    ingredients: await ingredientsOf(plan, {
      source: pinned,
      backend,
      ...inputs,
    }),
    command: commandLine(quantizeCommand, { parsed: given, source, texts }),
  };
}
