/**
 * Doing what was planned, one unit after another: its tensors are quantized and written (run/),
 * with calibration or without, and the windows of the evaluation are sent through it in both
 * streams. Refuses nothing; what stops it is a fault.
 */
import { scoreTokens, Streams } from "./forward/streams.ts";
import { originalWeights, quantizedWeights } from "./forward/weights.ts";
import type { Plan } from "./plan/planned.ts";
import { stackedAs } from "./plan/stacks.ts";
import type { Unit } from "./plan/tasks.ts";
import { readSourceCard } from "./sources/source_card.ts";
import { recordOf, recordSidecar } from "./report/record.ts";
import type { RunReport } from "./report/run_report.ts";
import type { Distribution } from "./metrics/distribution.ts";
import { type Event, StepCounter, type TensorReport } from "./report.ts";
import { openCalibration } from "./run/calibrated.ts";
import { type Context, type RunOptions, started } from "./run/context.ts";
import { Output } from "./run/output.ts";
import { placeMatrices } from "./run/matrices.ts";
import { ReadAhead } from "./run/read_ahead.ts";
import { neededAtTheEnd, readings } from "./run/readings.ts";
import { SAVE_SHARE, Saves } from "./run/saves.ts";
import { performUnit, readAhead } from "./run/unit.ts";
import { Trace } from "./trace.ts";

/**
 * Run a plan; where a run of the same key was stopped that could be gone on with, from there on.
 *
 * @throws {RequestError} what was begun is another run, or not there any more as it was written.
 * @throws {CheckpointError} a weight holds NaN or infinity, or a file changed since the plan was
 * made.
 * @throws {DeviceError} the device was lost, or has not enough memory for the smallest slice.
 * @throws {SpaceError} the disk is full.
 */
export async function run(plan: Plan, given: RunOptions): Promise<RunReport> {
  const { source, backend, sink, evaluation } = given;
  const warnings = [...given.warnings ?? []];
  using saves = await Saves.open(plan, given);
  const signal = saves?.signal ?? given.signal;
  const report = (event: Event) => {
    if (event.type === "warning") warnings.push({ code: event.code, message: event.message });
    given.report?.(event);
  };
  using _ = placeMatrices(plan, given);
  const counter = new StepCounter(report);
  const trace = new Trace({ ...given, traffic: () => backend.traffic });
  const card = await source.modelCard?.();
  const hashShare = (given.saveShare ?? SAVE_SHARE) / 2;
  await using output = new Output(plan.files, { sink, report, trace, hashShare });
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
  report(started(plan, { source, backend, counter }));
  for (const warning of plan.warnings) report({ type: "warning", ...warning });
  const tensors: TensorReport[] = [];
  const distributions = given.distributions ? new Map<string, Distribution>() : undefined;
  const state = { trace, output, tensors, distributions, warnings, counter, streams, calibration };
  const units = given.units ? [] : plan.units.slice(saves?.finished ?? 0);
  const kept = neededAtTheEnd(plan);
  if (saves?.finished === 0) await output.takeOver([]);
  if (saves && saves.finished > 0) {
    const done = await saves.restore(state);
    if (streams) await readBack(plan.units.slice(0, saves.finished), { output, kept, packed });
    report({ type: "resumed", units: saves.finished, of: plan.units.length, ...done });
  }
  for await (const done of given.units ?? []) {
    for await (const { file, begin, bytes } of done.pieces) {
      signal?.throwIfAborted();
      await output.place(file, begin, bytes);
    }
    tensors.push(...done.tensors);
    warnings.push(...done.warnings);
  }
  source.schedule?.(readings({ ...plan, units }, { measured: streams !== undefined }));
  await using reads = new ReadAhead(
    units.flatMap((unit) => readAhead(unit, calibration)),
    { source, backend, trace },
  );
  const context: Context = {
    ...given,
    plan,
    report,
    trace,
    output,
    reads,
    tensors,
    distributions,
    packed,
    ...(signal ? { signal } : {}),
  };
  const doUnit = async (unit: Unit) => {
    using scope = backend.scope();
    const loaded = await performUnit(unit, { context, calibration, original, scope });
    const { place } = unit;
    if (streams && place !== undefined) {
      await trace.time("evaluate", () => streams.advance(place, { signal, loaded }));
    }
  };
  for (const unit of units) {
    trace.enter(unit.name);
    if (saves) await saves.unit(unit, state, () => doUnit(unit));
    else await doUnit(unit);
    for (const tensor of packed.keys()) if (!kept.has(tensor)) packed.delete(tensor);
  }
  trace.enter(undefined);
  const measure = () => trace.time("evaluate", async () => await streams?.score({ signal }));
  const tokens = saves ? await saves.rest(state, measure) : await measure();
  const scores = tokens ? scoreTokens(tokens, { paired: true }) : {};
  const streamErrors = await streams?.errors();
  await trace.time("load", () => source.verified?.());
  const record = recordOf(plan, {
    command: given.command,
    tensors,
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
    tensors,
    scores,
    ...(tokens ? { tokens } : {}),
    seconds,
    peakBytes,
    timeline: trace.timeline(),
    phases,
    distributions: distributions ?? new Map(),
    warnings,
    record,
    ...(streamErrors ? { streamErrors } : {}),
  };
}

/** Keep again what an earlier run has written and the scores are computed from. */
async function readBack(
  units: readonly Unit[],
  { output, kept, packed }: Pick<Context, "output" | "packed"> & {
    readonly kept: ReadonlySet<string>;
  },
): Promise<void> {
  // A copy is read from the source, as it is while the run goes on.
  const outputs = units.flatMap(({ tasks }) => tasks)
    .flatMap((task) => task.kind === "copy" ? [] : task.outputs);
  for (const { name } of outputs) {
    if (kept.has(name)) packed.set(name, await output.read(name));
  }
}
