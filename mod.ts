/**
 * Sluice quantizes language models a piece at a time: open a checkpoint, plan from its headers, run
 * the plan.
 *
 * @example Quantize the embedded sample model to int4 in groups of 64
 * ```ts
 * import { open, openBackend, openFolderSink, plan, prepareCalibration, recipeFromOptions, requestOf, run } from "@sluice/sluice";
 *
 * await using source = await open("sample");
 * await using device = await openBackend("wasm");
 * const recipe = recipeFromOptions({ scheme: "W4A16", "group-size": 64 });
 * // 4 bits and below are calibrated; { corpus: "my.txt" } takes another text than the embedded one.
 * const calibration = await prepareCalibration(source, { seqLen: 128, numSamples: 4 });
 * const work = plan(recipe, source, { device, calibration: requestOf(calibration) });
 * const out = `${await Deno.makeTempDir()}/sample-w4a16`;
 * await using sink = await openFolderSink(out);
 * await run(work, { source, backend: device, sink, calibration });
 * ```
 *
 * @module
 */
export {
  type DeviceOptions,
  findDevice,
  type FoundDevice,
  type HubAccess,
  open,
  openBackend,
} from "./src/open.ts";
export { HubClient, type HubClientOptions } from "./src/hub/client.ts";
export { hubSettings } from "./src/hub/settings.ts";
export { Alongside, checkPublish, planPublish, publish } from "./src/publish.ts";
export type {
  AlongsideOptions,
  Destination,
  PublishOptions,
  PublishPlan,
  PublishReport,
} from "./src/publish.ts";
export { type CardFacts, modelCard } from "./src/publish/model_card.ts";
export { factsOfCheckpoint } from "./src/publish/card_facts.ts";
export type { Certificate, RunRecord } from "./src/report/record.ts";
export { readRecord } from "./src/report/record_file.ts";
export { readSourceCard } from "./src/sources/source_card.ts";
export { needsCalibration, plan } from "./src/plan.ts";
export { parsePlan, planJson, type ReadPlan } from "./src/plan/saved.ts";
export { outputsNeedCalibration, planOutputs } from "./src/outputs.ts";
export { type Beside, memoryOf } from "./src/plan/outputs.ts";
export {
  type MemoryPlan,
  type Plan,
  type PlannedFile,
  requestOf,
  type Sidecar,
  type WindowsRequest,
} from "./src/plan/planned.ts";
export type {
  CopyTask,
  DropTask,
  Place,
  QuantizeTask,
  SmoothTask,
  TensorTask,
  Unit,
} from "./src/plan/tasks.ts";
export type { Budgets } from "./src/plan/fit.ts";
export { outlierThreshold, withThreshold } from "./src/calibration/outliers.ts";
export type { RunReport } from "./src/report/run_report.ts";
export { run, runOutputs } from "./src/run.ts";
export { makeReport, type ReportFiles } from "./src/report/files.ts";
export type { ReportDocument } from "./src/report/document.ts";
export type { Distribution } from "./src/metrics/distribution.ts";
export type { Phase, PhaseReport, Timeline } from "./src/trace.ts";
export type { Traffic } from "./src/traffic.ts";
export type {
  DoneUnit,
  OutputOptions,
  PlannedOutput,
  RunOptions,
  SharedOptions,
} from "./src/run/context.ts";
export { evaluate, type EvaluateOptions, evaluateTokens } from "./src/evaluate.ts";
export {
  type CorpusOptions,
  prepareCalibration,
  type PreparedWindows,
  prepareWindows,
  windowsOf,
} from "./src/windows.ts";
export type { EvaluationInput } from "./src/forward/streams.ts";
export type { CalibrationInput } from "./src/calibration/input.ts";
export { type Advice, advise, type Proposal } from "./src/advise.ts";
export {
  HARDWARE,
  type Hardware,
  hardwareNamed,
  type Target,
  usualHardware,
} from "./src/advice/hardware.ts";
export {
  type BitOptions,
  bitOptions,
  type BitsTarget,
  chooseBits,
  chooseByLoss,
  chooseBySigmoid,
  type ChosenBits,
  measureSensitivities,
  parseBitOptions,
  sensitivityMemory,
} from "./src/bits.ts";
export {
  checkWindows,
  firstTry,
  type Guarantee,
  guarantee,
  type GuaranteeOptions,
  type Try,
} from "./src/guarantee.ts";
export {
  type Bounds,
  certificateOf,
  limitsOf,
  steers,
  type WindowScores,
  windowScores,
} from "./src/report/certificate.ts";
export { certifiedWindows, certifyAgain } from "./src/certificate.ts";
export { type Group, type GroupOption } from "./src/bits/groups.ts";
export type { ChosenGroup } from "./src/bits/recipe.ts";
export { modelHash, parseSensitivities, type Sensitivities } from "./src/bits/sensitivities.ts";
export { curves, type CurvesOptions } from "./src/curves.ts";
export type { CurvePoint, Curves } from "./src/curves/measured.ts";
export { curveFiles } from "./src/curves/page.ts";
export { granularity, type GranularityOptions } from "./src/granularity.ts";
export type { Granularities, GranularityRow } from "./src/granularity/measured.ts";
export { granularityFiles } from "./src/granularity/page.ts";
export { inspect, type Inspection } from "./src/inspect.ts";
export { verify, type VerifyReport } from "./src/verify.ts";
export {
  type Recipe,
  RECIPE_OPTIONS,
  recipeFromOptions,
  type Rule,
  RULE_OPTIONS,
} from "./src/recipe.ts";
export { type NamedRecipe, parseOutputs, parseRecipe } from "./src/recipe_file.ts";
export { type Option, type OptionValue, type OptionValues, parseOption } from "./src/option.ts";
export { type RunStatus, runStatus } from "./src/run/status.ts";
export { doneUnits, work, type Worked, type WorkOptions } from "./src/run/worker.ts";
export type { MeetingPlace, Share, UnitPiece } from "./src/run/meeting_place.ts";
export type { StoredUnit, WorkJob } from "./src/run/work_job.ts";
export { HubPlace, type HubPlaceOptions } from "./src/meeting/hub_place.ts";
export type { UnitWriter } from "./src/run/unit_writer.ts";
export { WorkFolder } from "./src/run/work_folder.ts";
export { type Ingredients, ingredientsOf, keyOf } from "./src/run/key.ts";
export { openFolderSink } from "./src/sinks/folder.ts";
export { openCheckpoint } from "./src/sources/checkpoint.ts";
export { METHODS } from "./src/methods/mod.ts";
export { FORMATS } from "./src/formats/mod.ts";
export { FAMILIES } from "./src/families/mod.ts";
export { METRICS } from "./src/metrics/mod.ts";
export { EVALUATORS } from "./src/evaluators/mod.ts";
export { schemeNames } from "./src/schemes/options.ts";
export {
  CheckpointError,
  DeviceError,
  HubError,
  RequestError,
  SpaceError,
  UnsupportedError,
} from "./src/errors.ts";
export type { Backend, DeviceLimits, Scope, Tensor } from "./src/backend.ts";
export type { DType, Shape, TensorInfo } from "./src/tensor.ts";
export type { FileInfo, Rows, TensorSource } from "./src/source.ts";
export type { Sink, SinkFile } from "./src/sink.ts";
export type { Quantized, Scheme, SchemeKind } from "./src/scheme.ts";
export type { Job, Method, Rounder, RoundingMethod, SmoothingMethod } from "./src/method.ts";
export type { Observer, Statistics } from "./src/observer.ts";
export type {
  Content,
  Format,
  Packer,
  PlannedWeight,
  StoredWeight,
  Verdict,
  WeightInfo,
} from "./src/format.ts";
export type { Block, Family, Linear, Model, Node, Norm, View } from "./src/family.ts";
export type { Metric } from "./src/metric.ts";
export type { Evaluator, Score, TokenScores } from "./src/evaluator.ts";
export type {
  Event,
  Limit,
  Quantity,
  Reporter,
  TensorReport,
  TextFacts,
  Warning,
} from "./src/report.ts";
