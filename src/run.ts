/**
 * Doing what was planned, one unit after another: its tensors are quantized and written (run/),
 * with calibration or without, and the windows of the evaluation are sent through it in both
 * streams. Refuses nothing; what stops it is a fault.
 */
import type { Calibration } from "./calibration/pass.ts";
import type { LoadedBlock } from "./forward/loaded_block.ts";
import { scoreTokens, Streams } from "./forward/streams.ts";
import { type ModelWeights, originalWeights, quantizedWeights } from "./forward/weights.ts";
import { graphsOf } from "./graph/block_graph.ts";
import type { Plan } from "./plan/planned.ts";
import { stackedAs } from "./plan/stacks.ts";
import type { Unit } from "./plan/tasks.ts";
import { readSourceCard } from "./sources/source_card.ts";
import { recordOf, recordSidecar } from "./report/record.ts";
import type { RunReport } from "./report/run_report.ts";
import { type Event, StepCounter } from "./report.ts";
import { calibrateBlock, isCopied, openCalibration } from "./run/calibrated.ts";
import type { Context, RunOptions } from "./run/context.ts";
import { Output } from "./run/output.ts";
import { perform } from "./run/perform.ts";
import { placeMatrices } from "./run/matrices.ts";
import { ReadAhead } from "./run/read_ahead.ts";
import { neededAtTheEnd, readings } from "./run/readings.ts";
import { Trace } from "./trace.ts";

/**
 * Run a plan.
 *
 * @throws {CheckpointError} a weight holds NaN or infinity, or a file changed since the plan was
 * made.
 * @throws {DeviceError} the device was lost, or has not enough memory for the smallest slice.
 * @throws {SpaceError} the disk is full.
 */
export async function run(plan: Plan, given: RunOptions): Promise<RunReport> {
  const { source, backend, sink, evaluation, signal } = given;
  const warnings = [...given.warnings ?? []];
  const report = (event: Event) => {
    if (event.type === "warning") warnings.push({ code: event.code, message: event.message });
    given.report?.(event);
  };
  using _ = placeMatrices(plan, given);
  const counter = new StepCounter(report);
  const trace = new Trace({ ...given, traffic: () => backend.traffic });
  const card = await source.modelCard?.();
  await using output = new Output(plan.files, { sink, report, trace });
  const packed: Context["packed"] = new Map();
  const original = originalWeights(source);
  const weights = [original, quantizedWeights(plan, { source, packed })];
  await using streams = evaluation && plan.model
    ? await Streams.open(plan.model, {
      backend,
      evaluation: stackedAs(evaluation, plan.evaluation),
      counter,
      weights,
      compare: true,
    })
    : undefined;
  await using calibration = openCalibration(plan, { ...given, report }, counter);
  report({
    type: "start",
    what: plan.source.label,
    device: backend.description,
    tensors: source.tensors.size,
    bytes: plan.sourceBytes,
    ...(counter.total > 0 ? { windows: counter.total } : {}),
  });
  for (const warning of plan.warnings) report({ type: "warning", ...warning });
  source.schedule?.(readings(plan, { measured: streams !== undefined }));
  await using reads = new ReadAhead(
    plan.units.flatMap((unit) => readAhead(unit, calibration)),
    { source, backend, trace },
  );
  const context: Context = {
    ...given,
    plan,
    report,
    trace,
    output,
    reads,
    tensors: [],
    distributions: given.distributions ? new Map() : undefined,
    packed,
  };
  const kept = neededAtTheEnd(plan);
  for (const unit of plan.units) {
    trace.enter(unit.name);
    using scope = backend.scope();
    const loaded = await performUnit(unit, { context, calibration, original, scope });
    const { place } = unit;
    if (streams && place !== undefined) {
      await trace.time("evaluate", () => streams.advance(place, { signal, loaded }));
    }
    for (const tensor of packed.keys()) if (!kept.has(tensor)) packed.delete(tensor);
  }
  trace.enter(undefined);
  const tokens = streams && await trace.time("evaluate", () => streams.score({ signal }));
  const scores = tokens ? scoreTokens(tokens, { paired: true }) : {};
  const streamErrors = await streams?.errors();
  await trace.time("load", () => source.verified?.());
  const record = recordOf(plan, {
    command: given.command,
    tensors: context.tensors,
    scores,
    warnings,
    device: backend.description,
    card: card === undefined ? undefined : readSourceCard(card),
    calibration: given.calibration,
    evaluation,
    energyTable: given.energyTable,
    certificate: tokens && given.certify?.(tokens),
  });
  const sidecars = [...plan.sidecars, recordSidecar(record)];
  await trace.time("write", () => output.commit(sidecars, source));
  const phases = trace.phases();
  const { seconds, peakBytes } = trace;
  if (streams) report({ type: "scored", scores });
  report({ type: "finished", seconds, peakBytes });
  return {
    tensors: context.tensors,
    scores,
    ...(tokens ? { tokens } : {}),
    seconds,
    peakBytes,
    timeline: trace.timeline(),
    phases,
    distributions: context.distributions ?? new Map(),
    warnings,
    record,
    ...(streamErrors ? { streamErrors } : {}),
  };
}

/**
 * Quantize and write what a unit has; a block that was calibrated is on the device as it was until
 * `scope` ends.
 */
async function performUnit(
  { place, tasks }: Unit,
  { context, calibration, original, scope }: {
    readonly context: Context;
    readonly calibration: Calibration | undefined;
    readonly original: ModelWeights;
    readonly scope: ReturnType<Context["backend"]["scope"]>;
  },
): Promise<LoadedBlock | undefined> {
  const { model } = context.plan;
  const graphs = calibration && model && typeof place === "number" ? graphsOf(model) : undefined;
  let loaded: LoadedBlock | undefined;
  if (calibration && graphs) {
    const last = place === graphs.length - 1;
    const graph = graphs[place as number]!;
    loaded = await calibrateBlock(graph, { tasks, last, context, calibration, original, scope });
  }
  for (const task of tasks) {
    context.signal?.throwIfAborted();
    if (!loaded || isCopied(task)) await perform(task, context);
  }
  if (calibration && place === "embedding") {
    await context.trace.time("walk", () => calibration.embed(original));
  }
  return loaded;
}

/** The tasks of a unit whose tensors are read slice by slice. */
function readAhead({ place, tasks }: Unit, calibration: Calibration | undefined): Unit["tasks"] {
  return calibration && typeof place === "number" ? tasks.filter(isCopied) : tasks;
}
