/**
 * Doing what was planned, one unit after another: its tensors are quantized and written (run/),
 * with calibration or without, and the windows of the evaluation are sent through it, in the
 * original's stream and in that of each output. Refuses nothing; what stops it is a fault.
 */
import { scoreTokens, Streams } from "./forward/streams.ts";
import { originalWeights } from "./forward/weights.ts";
import type { Plan } from "./plan/planned.ts";
import { evaluationTogether } from "./plan/outputs.ts";
import { readSourceCard } from "./sources/source_card.ts";
import { recordOf, recordSidecar } from "./report/record.ts";
import type { TokenScores } from "./evaluator.ts";
import type { RunReport } from "./report/run_report.ts";
import { StepCounter } from "./report.ts";
import { type PlannedOutput, type RunOptions, type SharedOptions, started } from "./run/context.ts";
import { Making } from "./run/making.ts";
import { ReadAhead } from "./run/read_ahead.ts";
import { readings } from "./run/readings.ts";
import { Saves } from "./run/saves.ts";
import { performStep, stepOf } from "./run/unit.ts";
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
export async function run(
  plan: Plan,
  { sink, units, certify, command, ...shared }: RunOptions,
): Promise<RunReport> {
  const output = {
    plan,
    sink,
    ...(units ? { units } : {}),
    ...(certify ? { certify } : {}),
    ...(command === undefined ? {} : { command }),
  };
  const [report] = await runOutputs([output], shared);
  return report!;
}

/**
 * Make several outputs of one checkpoint, each as if it were alone, by one read: the plans are of
 * {@linkcode planOutputs}. A tensor that several want is read once, and the original's hidden states
 * and logits are computed once for all that are measured. Where the outputs of a stopped run are
 * not equally far, those that are ahead wait for the others.
 *
 * @returns A report for each, in order.
 * @throws {RangeError} no outputs, or plans of different units.
 * @throws what {@linkcode run} throws.
 */
export async function runOutputs(
  outputs: readonly PlannedOutput[],
  given: SharedOptions,
): Promise<RunReport[]> {
  const { source, backend, evaluation } = given;
  const { plan } = firstOf(outputs);
  using saves = await Saves.open(outputs, given);
  const signal = saves?.signal ?? given.signal;
  const counter = new StepCounter(given.report ?? (() => {}));
  const trace = new Trace({ ...given, traffic: () => backend.traffic });
  const card = await source.modelCard?.();
  await using opened = new AsyncDisposableStack();
  const all: Making[] = [];
  for (const output of outputs) {
    all.push(opened.use(new Making(output, { given, counter, trace, before: all })));
  }
  const original = originalWeights(source);
  await using streams = evaluation && plan.model
    ? await Streams.open(plan.model, {
      backend,
      evaluation: evaluationTogether(evaluation, all.map(({ plan }) => plan)),
      counter,
      weights: [original, ...all.map(({ weights }) => weights)],
      compare: true,
    })
    : undefined;
  given.report?.(started(outputs.map(({ plan }) => plan), { source, backend, counter }));
  for (const { plan, report } of all) {
    for (const warning of plan.warnings) report({ type: "warning", ...warning });
  }
  const shared = { trace, counter };
  const finished = all.map((one) =>
    one.asked.units ? one.plan.units.length : saves?.finished(one.index) ?? 0
  );
  const ended = all.map((one) => one.saved(one.plan.units.at(-1)!, streams));
  if (saves) {
    const done = await saves.restore(ended.map(({ state }) => state), shared);
    if (streams) { for (const one of all) await one.readBack(finished[one.index]!); }
    const units = Math.max(...finished);
    if (units > 0) {
      given.report?.({
        type: "resumed",
        units: Math.min(...finished),
        of: plan.units.length,
        ...done,
      });
    }
  }
  for (const one of all) await one.take(signal);
  const partsOf = (i: number) => all.filter(({ index }) => finished[index]! <= i);
  const places = [...plan.units.keys()].filter((i) => partsOf(i).length > 0);
  const unitOf = (one: Making, i: number) => ({ plan: one.plan, unit: one.plan.units[i]! });
  const steps = places.map((i) => stepOf(partsOf(i).map((one) => unitOf(one, i))));
  const measured = streams !== undefined;
  source.schedule?.(readings(steps, { model: plan.model, measured }));
  await using reads = new ReadAhead(steps.flatMap(({ reads }) => reads), {
    source,
    backend,
    trace,
  });
  const context = { ...given, trace, reads, ...(signal ? { signal } : {}) };
  for (const i of places) {
    const making = partsOf(i);
    const { name, place } = plan.units[i]!;
    trace.enter(name);
    const doUnit = async () => {
      using scope = backend.scope();
      const step = stepOf(making.map((one) => one.part(one.plan.units[i]!, context)));
      const loaded = await performStep(step, { original, scope });
      if (!streams || place === undefined) return;
      const only = making.map(({ index }) => index + 1);
      await trace.time("evaluate", () => streams.advance(place, { signal, loaded, only }));
    };
    const parts = making.map((one) => one.saved(one.plan.units[i]!, streams));
    if (saves) await saves.unit(parts, shared, doUnit);
    else await doUnit();
    for (const one of making) one.forget();
  }
  trace.enter(undefined);
  const measure = () => trace.time("evaluate", async () => await streams?.score({ signal }));
  const tokens = saves ? await saves.rest(ended, shared, measure) : await measure();
  const errors = await streams?.errors();
  const verify = () => trace.time("load", async () => await source.verified?.());
  await (saves ? saves.rest(ended, shared, verify) : verify());
  const records = all.map(({ plan, asked, tensors, warnings }, i) =>
    recordOf(plan, {
      command: asked.command,
      tensors,
      scores: scoresOf(tokens?.[i]),
      warnings,
      device: backend.description,
      card: card === undefined ? undefined : readSourceCard(card),
      calibration: given.calibration,
      evaluation,
      energyTable: given.energyTable,
      certificate: tokens && asked.certify?.(tokens[i]!),
      streamErrors: errors?.[i],
    })
  );
  for (const { plan, output, index } of all) {
    const sidecars = [...plan.sidecars, recordSidecar(records[index]!)];
    await trace.time("write", () => output.finish(sidecars, source));
  }
  // Nothing but names is left to go wrong, so that all outputs are there or none.
  for (const { output } of all) await trace.time("write", () => output.commit());
  const phases = trace.phases();
  const { seconds, peakBytes } = trace;
  const timeline = trace.timeline();
  const reports = all.map(({ tensors, warnings, distributions = new Map() }, i): RunReport => ({
    tensors,
    scores: scoresOf(tokens?.[i]),
    ...(tokens ? { tokens: tokens[i]! } : {}),
    seconds,
    peakBytes,
    timeline,
    phases,
    distributions,
    warnings,
    record: records[i]!,
    ...(errors ? { streamErrors: errors[i]! } : {}),
  }));
  if (streams) {
    for (const [i, { scores }] of reports.entries()) all[i]!.report({ type: "scored", scores });
  }
  given.report?.({ type: "finished", seconds, peakBytes });
  return reports;
}

/** The numbers of an output that was measured. */
function scoresOf(tokens: TokenScores | undefined): RunReport["scores"] {
  return tokens ? scoreTokens(tokens, { paired: true }) : {};
}

/**
 * The first of some outputs, whose units all of them have.
 *
 * @throws {RangeError} there is none, or another's units are of other tensors.
 */
function firstOf(outputs: readonly PlannedOutput[]): PlannedOutput {
  const [first, ...others] = outputs;
  if (!first) throw new RangeError("Cannot run: there are no outputs");
  const unitsOf = ({ plan: { source, units } }: PlannedOutput) =>
    JSON.stringify([
      source.id,
      units.map(({ name, tasks }) => [name, tasks.map((t) => t.source.name)]),
    ]);
  if (others.every((other) => unitsOf(other) === unitsOf(first))) return first;
  throw new RangeError("Cannot run: the outputs were not planned of one checkpoint together");
}
