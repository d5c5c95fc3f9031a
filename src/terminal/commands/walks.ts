/**
 * The windows of text that `quantize` and `plan` send through a model: to calibrate on, and to
 * measure it with.
 */
import type { Backend, DeviceLimits } from "../../backend.ts";
import { evaluableModel, modelWithOutliers } from "../../plan/model.ts";
import type { CalibrationInput } from "../../calibration/input.ts";
import { stateWidths } from "../../graph/stops.ts";
import { RequestError, UnsupportedError } from "../../errors.ts";
import type { PreparedWindows } from "../../windows.ts";
import { type Plan, requestOf } from "../../plan/planned.ts";
import { outputsNeedCalibration, planOutputs } from "../../outputs.ts";
import type { Recipe } from "../../recipe.ts";
import type { NamedRecipe } from "../../recipe_file.ts";
import type { Reporter } from "../../report.ts";
import { SENDING_BYTES } from "../../limits.ts";
import { size, sizeToGive } from "../../size.ts";
import type { TensorSource } from "../../source.ts";
import type { EvaluationInput } from "../../forward/streams.ts";
import type { Host, ParsedArguments } from "../command.ts";
import { boundFlag, isMeasured } from "./bounds.ts";
import { budgetsOf } from "./budgets.ts";
import { givenOr, planInRoom, stateLimit, walkLimit } from "./room.ts";
import {
  CALIBRATION_FLAGS,
  EVALUATION_FLAGS,
  readCalibration,
  readWindows,
  withSpill,
} from "./flags.ts";

/** Windows, as far as they are needed. */
export interface Texts {
  readonly calibration?: PreparedWindows;
  readonly evaluation?: PreparedWindows;
}

/**
 * Read the texts that recipes and the flags ask for.
 *
 * @throws {RequestError} flags of a calibration are given, and nothing is calibrated; or of a
 * measurement, and nothing is measured.
 */
export async function readTexts(
  parsed: ParsedArguments,
  { source, recipes, host, report, sensed = false, searched = false }: {
    source: TensorSource;
    recipes: readonly NamedRecipe[];
    host: Host;
    report: Reporter;
    /** Whether the text to calibrate on has served to choose bits. */
    sensed?: boolean;
    /** Whether recipes are yet to be tried, which may calibrate. */
    searched?: boolean;
  },
): Promise<Texts> {
  const observed = recipes.some(({ recipe }) => recipe.outlierQuantile !== undefined);
  if (observed) modelWithOutliers(source);
  const solved = outputsNeedCalibration(recipes, source) || searched;
  const calibrated = solved || observed;
  const unused = unusedFlag(parsed, { solved, seen: calibrated || sensed });
  if (unused !== undefined) {
    throw new RequestError(
      `Cannot use --${unused}: no weight is quantized by a method that calibrates. Name one, as --method awq+gptq.`,
    );
  }
  const measured = EVALUATION_FLAGS.find(({ name }) => name !== "max-states" && parsed.has(name));
  if (measured && !isMeasured(parsed)) {
    throw new RequestError(
      `Cannot use --${measured.name} without --evaluate: nothing is measured.`,
    );
  }
  if (calibrated && !source.files.has("tokenizer.json")) {
    throw new UnsupportedError(
      `Cannot calibrate on ${source.label}: it has no tokenizer.json. Save the model's tokenizer there with transformers ` +
        "(`AutoTokenizer.from_pretrained(…).save_pretrained(…)`), or " +
        (observed
          ? "give --threshold in place of --outlier-quantile."
          : "quantize by a method that needs no text: --method rtn."),
      { what: "tokenizer.json", reason: "a text cannot be tokenized" },
    );
  }
  if (isMeasured(parsed)) {
    const flag = boundFlag(parsed) ?? "evaluate";
    evaluableModel(source, { advice: `Quantize it without --${flag}.` });
  }
  const reading = { host, report };
  return {
    ...(calibrated ? { calibration: await readCalibration(parsed, source, reading) } : {}),
    ...(isMeasured(parsed) ? { evaluation: await readWindows(parsed, source, reading) } : {}),
  };
}

/** A flag of a calibration that there is none for, as it was given. */
function unusedFlag(
  parsed: ParsedArguments,
  { solved, seen }: {
    /** Whether a method looks at the inputs of weights. */
    readonly solved: boolean;
    /** Whether the text is read at all. */
    readonly seen: boolean;
  },
): string | undefined {
  // The number and length of windows are the measurement's too, unless it has its own.
  const shared = ["num-samples", "seq-len"]
    .filter((name) => isMeasured(parsed) && !parsed.has(`eval-${name}`));
  const given = [
    ...seen ? [] : CALIBRATION_FLAGS.map(({ name }) => name),
    ...solved ? [] : ["propagate", "calibrate-on"],
  ].find((name) => parsed.has(name) && !shared.includes(name));
  return given && parsed.get(given) === false ? `no-${given}` : given;
}

/**
 * A recipe with what only data can tell: the threshold of outliers, if it asks for one. Says what
 * was found.
 *
 * @throws {UnsupportedError} hidden states do not fit in a budget.
 */
export async function settleRecipe(
  recipe: Recipe,
  { parsed, source, backend, texts: { calibration }, host, report }: {
    parsed: ParsedArguments;
    source: TensorSource;
    backend: Backend;
    texts: Texts;
    host: Host;
    report: Reporter;
  },
): Promise<Recipe> {
  const { outlierQuantile: quantile } = recipe;
  if (quantile === undefined || !calibration) return recipe;
  const { outlierThreshold, withThreshold } = await import(
    "../../calibration/outliers.ts"
  );
  const model = modelWithOutliers(source);
  const { kept, between } = stateWidths(model, { propagate: false });
  const { ram, vram, disk } = budgetsOf(parsed, { staged: source.schedule !== undefined });
  // There is no plan yet that says how much memory is left for hidden states: under a budget they
  // go to disk.
  const { windows, seqLen } = calibration;
  const limit = await walkLimit(backend, host, windows.length * seqLen * kept * 4);
  const stateBudget = (ram ?? vram) === undefined ? givenOr(calibration.stateBudget, limit) : 0;
  const spilled = windows.length * seqLen * between * 2;
  if (stateBudget === 0 && spilled > (disk ?? Infinity)) {
    throw new UnsupportedError(
      `Cannot keep to --max-disk: ${
        size(spilled)
      } of hidden states must go to disk to find the outliers. ` +
        `Give --max-disk ${sizeToGive(spilled)}, more memory, or fewer --num-samples.`,
      { what: "budgets.disk", reason: `${size(spilled)} are needed` },
    );
  }
  await using stack = new AsyncDisposableStack();
  const threshold = await outlierThreshold(source, {
    backend,
    calibration: await withSpill({ ...calibration, stateBudget }, {
      floatsPerToken: kept,
      host,
      stack,
    }),
    quantile,
    report,
    signal: host.signal,
  });
  if (!parsed.knows("quiet") || !parsed.get("quiet")) {
    host.err.write(
      `sluice: outliers from ${threshold} on: ${
        percent(quantile)
      } of the activations are smaller\n`,
    );
  }
  return withThreshold(recipe, threshold);
}

/** 0.999 as `99.9 %`. */
function percent(share: number): string {
  return `${Number((100 * share).toPrecision(12))} %`;
}

/** What plans are made for. */
export interface Planning {
  readonly parsed: ParsedArguments;
  readonly device: DeviceLimits;
  readonly texts: Texts;
  readonly host: Host;
  /** Whether the run is to go on after it was stopped. */
  readonly resume?: boolean;
}

/** The plan of a recipe and texts, within the budgets that flags set or the machine has. */
export async function planFor(
  recipe: Recipe,
  source: TensorSource,
  planning: Planning,
): Promise<Plan> {
  const [planned] = await plansFor([{ name: "", recipe }], source, planning);
  return planned!;
}

/** The plans of several recipes of which one run makes outputs. */
export async function plansFor(
  recipes: readonly NamedRecipe[],
  source: TensorSource,
  { parsed, device, texts, host, resume = false }: Planning,
): Promise<Plan[]> {
  const limit = stateLimit(device, host);
  const request = (windows: PreparedWindows) =>
    requestOf({ ...windows, stateBudget: givenOr(windows.stateBudget, limit) });
  const { calibration, evaluation } = texts;
  const walks = {
    ...(calibration ? { calibration: request(calibration) } : {}),
    ...(evaluation ? { evaluation: request(evaluation) } : {}),
  };
  const uploads = parsed.knows("upload-repo") && parsed.has("upload-repo");
  const aside = uploads ? SENDING_BYTES : 0;
  return await planInRoom(
    (budgets) => planOutputs(recipes, source, { device, ...walks, budgets, resume, aside }),
    { budgets: budgetsOf(parsed, { staged: source.schedule !== undefined }), device, host },
  );
}

/**
 * The texts of plans of which one run makes outputs, with as much memory as they give them and
 * places on disk for what does not fit.
 */
export async function inputsOf(
  { calibration, evaluation }: Texts,
  { plans, host, stack }: { plans: readonly Plan[]; host: Host; stack: AsyncDisposableStack },
): Promise<{ readonly calibration?: CalibrationInput; readonly evaluation?: EvaluationInput }> {
  const { model } = plans[0]!;
  if (!model) return {};
  const calibrated = plans.filter((plan) => plan.calibration !== undefined);
  const measured = plans.flatMap((plan) => plan.evaluation ?? []);
  const fitted = (windows: PreparedWindows, walks: readonly Walk[]) => {
    const stateBudget = Math.min(...walks.map(({ stateBudget }) => stateBudget));
    const floatsPerToken = Math.max(...walks.map(({ floatsPerToken }) => floatsPerToken));
    const others = calibrated.some(({ memory }) => memory.disk > 0) ||
      walks.some((walk) => walk.stateBudget !== stateBudget);
    return withSpill({ ...windows, stateBudget }, { floatsPerToken, others, host, stack });
  };
  return {
    ...(calibration && calibrated.length > 0
      ? {
        calibration: {
          ...await fitted(
            calibration,
            calibrated.map((plan) => ({
              stateBudget: plan.calibration!.stateBudget,
              floatsPerToken: stateWidths(model, plan).kept,
            })),
          ),
          // Each plan has its own, of which this is the most.
          stateBudget: Math.max(...calibrated.map((plan) => plan.calibration!.stateBudget)),
        },
      }
      // The record tells by what the threshold of outliers was found.
      : calibration && plans.some(({ recipe }) => recipe.outlierQuantile !== undefined)
      ? { calibration }
      : {}),
    ...(evaluation && measured.length > 0
      ? {
        evaluation: await fitted(
          evaluation,
          measured.map(({ stateBudget }) => ({
            stateBudget,
            floatsPerToken: 2 * model.hiddenSize,
          })),
        ),
      }
      : {}),
  };
}

/** How much of hidden states stays in memory. */
interface Walk {
  readonly stateBudget: number;
  readonly floatsPerToken: number;
}
