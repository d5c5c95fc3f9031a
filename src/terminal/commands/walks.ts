/** The windows of text that `quantize` and `plan` send through a model: to calibrate on, and to measure it with. */
import type { CalibrationInput } from "../../calibrate.ts";
import { statesPerToken } from "../../calibrate.ts";
import { RequestError, UnsupportedError } from "../../errors.ts";
import type { PreparedWindows } from "../../evaluate.ts";
import { needsCalibration, type Plan, requestOf, type WindowsRequest } from "../../plan.ts";
import type { Recipe } from "../../recipe.ts";
import type { Reporter } from "../../report.ts";
import type { TensorSource } from "../../source.ts";
import type { EvaluationInput } from "../../streams.ts";
import type { Host, Said } from "../command.ts";
import { CALIBRATION_FLAGS, readCalibration, readWindows, withSpill } from "./flags.ts";

/** Windows, as far as they are needed. */
export interface Texts {
  readonly calibration?: PreparedWindows;
  readonly evaluation?: PreparedWindows;
}

/**
 * Read the texts that a recipe and the flags ask for.
 *
 * @throws {RequestError} flags of a calibration are given, and nothing is calibrated.
 */
export async function readTexts(
  said: Said,
  { source, recipe, host, report }: {
    source: TensorSource;
    recipe: Recipe;
    host: Host;
    report: Reporter;
  },
): Promise<Texts> {
  const calibrated = needsCalibration(recipe, source);
  // The number and length of windows are the measurement's too.
  const own = CALIBRATION_FLAGS.find(({ name }) =>
    (name === "calibration" || name === "seed") && said.has(name)
  );
  if (own && !calibrated) {
    throw new RequestError(
      `Cannot use --${own.name}: no weight is quantized by a method that calibrates. Name one, as --method awq+gptq.`,
    );
  }
  if (calibrated && !source.files.has("tokenizer.json")) {
    throw new UnsupportedError(
      `Cannot calibrate on ${source.label}: it has no tokenizer.json. Save the model's tokenizer there with transformers ` +
        "(`AutoTokenizer.from_pretrained(…).save_pretrained(…)`), or quantize by a method that needs no text: --method rtn.",
      { what: "tokenizer.json", reason: "a text cannot be tokenized" },
    );
  }
  const reading = { host, report };
  return {
    ...(calibrated ? { calibration: await readCalibration(said, source, reading) } : {}),
    ...(said.get("evaluate") ? { evaluation: await readWindows(said, source, reading) } : {}),
  };
}

/** What a plan needs to know of texts. */
export function requestsOf(
  texts: Texts,
): { readonly calibration?: WindowsRequest; readonly evaluation?: WindowsRequest } {
  const { calibration, evaluation } = texts;
  return {
    ...(calibration ? { calibration: requestOf(calibration) } : {}),
    ...(evaluation ? { evaluation: requestOf(evaluation) } : {}),
  };
}

/** The texts of a plan, with as much memory as it gives them and places on disk for what does not fit. */
export async function inputsOf(
  { calibration, evaluation }: Texts,
  { plan, host, stack }: { plan: Plan; host: Host; stack: AsyncDisposableStack },
): Promise<{ readonly calibration?: CalibrationInput; readonly evaluation?: EvaluationInput }> {
  const { model, recipe } = plan;
  if (!model) return {};
  const fitted = (windows: PreparedWindows, request: WindowsRequest, floatsPerToken: number) =>
    withSpill({ ...windows, stateBudget: request.stateBudget }, { floatsPerToken, host, stack });
  return {
    ...(calibration && plan.calibration
      ? {
        calibration: await fitted(calibration, plan.calibration, statesPerToken(model, recipe)),
      }
      : {}),
    ...(evaluation && plan.evaluation
      ? { evaluation: await fitted(evaluation, plan.evaluation, 2 * model.hiddenSize) }
      : {}),
  };
}
