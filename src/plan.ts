/**
 * What will be done, decided from headers alone: each tensor's fate, every output file with names,
 * dtypes, shapes and offsets, the bits per weight, the peak memory. Every refusal happens here,
 * before anything is written; after `plan()` only faults stop a run.
 */
import type { DeviceLimits } from "./backend.ts";
import { UnsupportedError } from "./errors.ts";
import { checkShapes } from "./families/mod.ts";
import type { Format, Verdict } from "./format.ts";
import { plain } from "./formats/plain.ts";
import { SPILL_BYTES } from "./limits.ts";
import { assign } from "./plan/assign.ts";
import { isUntied } from "./plan/content.ts";
import { checkOps } from "./plan/device.ts";
import { layoutFiles, sidecarsOf } from "./plan/files.ts";
import { type Budgets, carryBytes, fit, spilledBytes } from "./plan/fit.ts";
import { planMemory } from "./plan/memory.ts";
import type { Beside } from "./plan/outputs.ts";
import { misfitOf } from "./plan/misfit.ts";
import { evaluableModel, modelIfAny } from "./plan/model.ts";
import { inputObserver, isCalibrated, isTuned, propagates } from "./plan/needs.ts";
import { type Decisions, type QuantizeDecision, quantizeTasks, toQuantize } from "./plan/tasks.ts";
import type { Plan, WindowsRequest } from "./plan/planned.ts";
import { checkTuning } from "./plan/tuning.ts";
import { arrange, outputsOf, sliceTasks } from "./plan/units.ts";
import { refuseUnusable } from "./plan/usable.ts";
import { type Recipe, usesOutliers } from "./recipe.ts";
import type { Warning } from "./report.ts";
import type { TensorSource } from "./source.ts";
import { byteLength, elementCount, sum } from "./tensor.ts";

/**
 * Plan a run from headers alone.
 *
 * @throws {UnsupportedError} something the recipe asks for cannot be done with this checkpoint,
 * format or device, or within the budgets.
 * @throws {CheckpointError} `config.json` has a value that a model cannot have.
 */
export function plan(
  recipe: Recipe,
  source: TensorSource,
  { device, evaluation: asked, calibration: given, budgets = {}, ...more }: {
    device: DeviceLimits;
    evaluation?: WindowsRequest;
    /** Required when a method of the recipe is calibrated; not used when none is. */
    calibration?: WindowsRequest;
    budgets?: Budgets;
    /** Whether the run is to go on after it was stopped, for which its carry lies on disk. */
    resume?: boolean;
    /** What the run holds of other outputs that it makes (`planOutputs`). */
    beside?: Beside;
    /** Bytes that the process holds for what else it does meanwhile, as sending to the Hub. */
    aside?: number;
  },
): Plan {
  const { resume = false, beside, aside = 0 } = more;
  checkOps(device);
  refuseUnusable(source);
  refuseUnsettled(recipe);
  const runnable = asked
    ? { model: evaluableModel(source, { advice: "Quantize it without `evaluation`." }) }
    : modelIfAny(source);
  const { model } = runnable;
  const { decisions, format, content, modelDType, warnings } = assign(recipe, source, runnable);
  const calibration = calibrationOf(decisions, given, recipe);
  const quantizing = toQuantize(decisions);
  const streams = { propagate: propagates(recipe, quantizing), tuned: quantizing.some(isTuned) };
  if (model && calibration) {
    checkTuning(model, { decisionOf: (name) => decisions.get(name), calibration });
  }
  if (model && (asked || calibration)) {
    checkShapes(model, (name) => source.tensors.get(name)?.shape);
  }
  const section = format.section(content);
  const stored = [...decisions.values()].map((decision) => ({
    decision,
    outputs: outputsOf(decision, format),
  }));
  const walks = {
    ...(asked ? { evaluation: asked } : {}),
    ...(calibration ? { calibration } : {}),
  };
  const { units, windows, memory, places } = fit(({ sliceBytes, windows, places }) => {
    const units = arrange(sliceTasks(stored, { format, device: { ...device, sliceBytes } }), model);
    const buffers = aside + (source.bufferBytes ?? 0) + (beside?.onHost ?? 0) +
      (windows.evaluation || windows.calibration
        ? TOKENIZER_BYTES * (source.files.get("tokenizer.json")?.size ?? 0)
        : 0) +
      // Of the carry, what is on its way to the disk.
      (resume ? Math.min(SPILL_BYTES, carryBytes(model, windows, { ...streams, device })) : 0);
    const besideStates = beside?.states ?? 0;
    const around = { device, places, format, model, windows, ...streams, buffers, besideStates };
    return { units, windows, places, memory: planMemory(units, around) };
  }, { device, model, windows: walks, ...streams, budgets, resume });
  const quantized = quantizeTasks(units);
  const files = layoutFiles(units, recipe.maxShardSize);
  const loaders = format.loaders({ ...content, misfit: misfitOf(source, runnable) });
  const sidecars = sidecarsOf(source, files, {
    section,
    format,
    modelDType,
    cast: quantized.some(({ scheme }) => scheme.kind === "cast") || announcesDoubles(source.config),
    untied: isUntied(content),
  });
  const quantizedWeights = sum(quantized, ({ weight }) => elementCount(weight.shape));
  return {
    recipe,
    source: { id: source.id, label: source.label },
    device: device.name,
    format,
    model,
    units,
    files,
    sidecars,
    quantizedWeights,
    bitsPerWeight: sum(quantized, ({ outputs }) => sum(outputs, byteLength)) * 8 / quantizedWeights,
    totalBytes: sum(files, ({ size }) => size) + sum(sidecars, ({ size }) => size),
    sourceBytes: sum([...source.tensors.values()], byteLength),
    memory,
    matrixPlaces: places,
    ...windows,
    ...streams,
    spilledBytes: spilledBytes(model, windows, { ...streams, device }),
    carryBytes: resume ? carryBytes(model, windows, { ...streams, device }) : 0,
    loaders,
    warnings: [...warnings, ...warningOf(loaders, format, quantized)],
  };
}

/**
 * Bytes of memory for each of a tokenizer.json: what it was parsed into stays in the heap. Measured
 * with Gemma's, 33 MB of a vocabulary of 262,144.
 */
const TOKENIZER_BYTES = 13;

/**
 * Whether a recipe calibrates anything of a checkpoint, so that `plan` must be given windows of a
 * text.
 *
 * @throws {UnsupportedError} the recipe asks for what cannot be done.
 */
export function needsCalibration(recipe: Recipe, source: TensorSource): boolean {
  refuseUnusable(source);
  return toQuantize(assign(recipe, source, modelIfAny(source)).decisions).some(isCalibrated);
}

/** Told before the run where no loader is known to open the result, and what would be opened. */
function warningOf(
  loaders: readonly Verdict[],
  format: Format,
  quantized: readonly QuantizeDecision[],
): Warning[] {
  if (format.unwritten || loaders.some(({ opens }) => opens === "yes")) return [];
  const hopes = loaders.filter(({ opens }) => opens === "unknown");
  const holds = ({ scheme, weight }: QuantizeDecision) => plain.supports(scheme, weight) === true;
  const other = format !== plain && quantized.every(holds)
    ? " Format plain writes the rounded values as ordinary weights, which whatever opens the original opens."
    : "";
  const message = hopes.length === 0
    ? `No loader opens this model in ${format.name}: ${loaders[0]!.why}.`
    : `No loader is known to open this model in ${format.name}; of ${
      hopes.map(({ name }) => name).join(", ")
    } nothing is known (${hopes[0]!.why}).`;
  return [{ code: "no-loader", message: message + other }];
}

/** @throws {UnsupportedError} windows cannot be calibrated on in so many parts. */
function checkShards(
  shards: number,
  { given: { windows }, isTuned }: { readonly given: WindowsRequest; readonly isTuned: boolean },
): void {
  const reason = shards > windows
    ? `there are ${windows} windows. Give more (\`num-samples\`), or fewer shards`
    : isTuned
    ? "blocks that are trained see all windows in one place. Leave out `calibration-shards`, or `tune`"
    : undefined;
  if (reason === undefined) return;
  throw new UnsupportedError(`Cannot calibrate in ${shards} shards: ${reason}.`, {
    what: "calibration-shards",
    reason,
  });
}

/** Whether config.json says that the weights are float64, which are read and written as float32. */
function announcesDoubles(config: TensorSource["config"]): boolean {
  return [config.dtype, config.torch_dtype].includes("float64");
}

/**
 * @throws {UnsupportedError} the recipe leaves a threshold to data that nobody has looked at yet.
 */
function refuseUnsettled({ rules, outlierQuantile }: Recipe): void {
  const open = rules.some((rule) => usesOutliers(rule) && rule.options.threshold === undefined);
  if (outlierQuantile === undefined || !open) return;
  throw new UnsupportedError(
    "Cannot plan with `outlier-quantile`: the threshold must be found first (outlierThreshold) and put into the recipe (withThreshold).",
    { what: "outlier-quantile", reason: "the threshold is not known yet" },
  );
}

/**
 * The calibration of a plan; undefined when nothing is calibrated.
 *
 * @throws {UnsupportedError} something is, and there are no windows.
 */
function calibrationOf(
  decisions: Decisions,
  given: WindowsRequest | undefined,
  { calibrationShards: shards }: Recipe,
): WindowsRequest | undefined {
  const all = toQuantize(decisions);
  const found = all.find(isCalibrated);
  if (!found) return undefined;
  if (given) {
    if (shards > 1) checkShards(shards, { given, isTuned: all.some(isTuned) });
    return shards > 1 ? { ...given, shards } : given;
  }
  const { name, scheme, chain, rule: { options } } = found;
  const [how, other] = inputObserver(scheme, options)
    ? ["with static activations", "dynamic activations, which need none"]
    : [`by ${chain.name}`, "method rtn, which needs none"];
  throw new UnsupportedError(
    `Cannot quantize "${name}" ${how} without calibration: give windows of a text (prepareCalibration), or ${other}.`,
    { what: name, reason: `${chain.name} must see its inputs` },
  );
}
