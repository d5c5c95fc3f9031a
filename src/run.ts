/**
 * Doing what was planned: read a slice, choose its codes, pack, write, forget (quantize_slices.ts); or with calibration, a block at a time
 * (quantize_blocks.ts). After each block, send the windows of the evaluation through it in both streams. Refuses nothing; what stops it is a fault.
 */
import type { Distribution } from "./distribution.ts";
import type { Score } from "./evaluator.ts";
import type { Block } from "./family.ts";
import { Output } from "./output.ts";
import type { Plan, Step } from "./plan.ts";
import { PhaseClock, type PhaseReport } from "./phases.ts";
import { calibrateBlock, openCalibration } from "./quantize_blocks.ts";
import { perform } from "./quantize_slices.ts";
import { ReadAhead } from "./read_ahead.ts";
import { recordOf, recordSidecar, type RunRecord } from "./record.ts";
import { type Event, StepCounter, type TensorReport } from "./report.ts";
import { type Context, type RunOptions, sample } from "./run_context.ts";
import type { Reading } from "./source.ts";
import { readSourceCard } from "./source_card.ts";
import { scoreTokens, Streams, tensorsRead } from "./streams.ts";
import { Stopwatch, type Timeline } from "./timeline.ts";
import { originalWeights, quantizedWeights } from "./weights.ts";

/** What a run did. */
export interface RunReport {
  readonly tensors: readonly TensorReport[];
  /** By evaluator; empty without an evaluation. */
  readonly scores: Readonly<Record<string, Score>>;
  readonly seconds: number;
  /** Highest resident size that was sampled, in bytes; 0 when it was not. */
  readonly peakBytes: number;
  /** When bytes came in, the device was busy, and bytes went out. */
  readonly timeline: Timeline;
  /** Where time and memory went. */
  readonly phases: PhaseReport;
  /** By weight; empty unless asked for. */
  readonly distributions: ReadonlyMap<string, Distribution>;
  readonly warnings: readonly Pick<Extract<Event, { type: "warning" }>, "code" | "message">[];
  /** What lies beside the weights as `sluice.json`. */
  readonly record: RunRecord;
}

/**
 * Run a plan.
 *
 * @throws {CheckpointError} a weight holds NaN or infinity, or a file changed since the plan was made.
 * @throws {DeviceError} the device was lost, or has not enough memory for the smallest slice.
 * @throws {SpaceError} the disk is full.
 */
export async function run(plan: Plan, given: RunOptions): Promise<RunReport> {
  const { source, backend, sink, evaluation, signal } = given;
  const warnings: RunReport["warnings"][number][] = [...given.warnings ?? []];
  const report = (event: Event) => {
    if (event.type === "warning") warnings.push({ code: event.code, message: event.message });
    given.report?.(event);
  };
  const options = { ...given, report };
  const counter = new StepCounter(report);
  const begun = performance.now();
  const watch = new Stopwatch();
  const phases = new PhaseClock(given);
  const card = await source.modelCard?.();
  await using output = new Output(plan.files, { sink, report, watch });
  const packed: Context["packed"] = new Map();
  const original = originalWeights(source);
  const weights = [original, quantizedWeights(plan, { source, packed })];
  await using streams = evaluation && plan.model
    ? await Streams.open(plan.model, { backend, evaluation, counter, weights })
    : undefined;
  await using calibration = await openCalibration(plan, options, counter);
  report({
    type: "start",
    what: plan.source.label,
    device: backend.description,
    tensors: source.tensors.size,
    bytes: plan.sourceBytes,
    ...(counter.total > 0 ? { windows: counter.total } : {}),
  });
  for (const warning of plan.warnings) report({ type: "warning", ...warning });
  const calibrated = calibration ? calibratedBlocks(plan) : new Map<string, Block>();
  source.schedule?.(readings(plan, { measured: streams !== undefined, calibrated }));
  const context: Context = {
    ...options,
    plan,
    report,
    output,
    tensors: [],
    spread: new Map(),
    phases,
    packed,
    kept: neededAtTheEnd(plan),
    reads: new ReadAhead(
      source,
      plan.blocks.flatMap(({ name, steps }) =>
        calibrated.has(name) ? steps.filter(isCopied) : steps
      ),
      watch,
    ),
    watch,
    peak: 0,
  };
  for (const { name, steps } of plan.blocks) {
    phases.enter(name);
    using scope = backend.scope();
    const block = calibrated.get(name);
    const loaded = block && calibration
      ? await calibrateBlock(block, { context, calibration, original, scope })
      : undefined;
    for (const step of steps) {
      signal?.throwIfAborted();
      if (!block || isCopied(step)) await perform(step, context);
    }
    if (calibration && name === "embedding") {
      await phases.time("walk", () => calibration.embed(original));
    }
    if (streams) {
      const advance = () => streams.advance(name, { signal, loaded });
      await watch.time("compute", 0, () => phases.time("evaluate", advance));
    }
    sample(context);
    for (const tensor of packed.keys()) {
      if (!context.kept.has(tensor)) packed.delete(tensor);
    }
  }
  phases.enter(undefined);
  const score = (streams: Streams) => streams.score({ signal });
  const scores = streams
    ? scoreTokens(
      await watch.time("compute", 0, () => phases.time("evaluate", () => score(streams))),
      { paired: true },
    )
    : {};
  sample(context);
  await phases.time("load", () => source.verified?.());
  const record = recordOf(plan, {
    command: given.command,
    tensors: context.tensors,
    scores,
    warnings,
    device: backend.description,
    card: card === undefined ? undefined : readSourceCard(card),
    calibration: given.calibration,
    evaluation,
  });
  await phases.time(
    "write",
    () => output.commit([...plan.sidecars, recordSidecar(record)], source),
  );
  const seconds = (performance.now() - begun) / 1000;
  if (streams) report({ type: "scored", scores });
  const used = phases.report();
  const peakBytes = Math.max(
    context.peak,
    ...Object.values(used.total).map(({ peakBytes }) => peakBytes),
  );
  report({ type: "finished", seconds, peakBytes });
  return {
    tensors: context.tensors,
    scores,
    seconds,
    peakBytes,
    timeline: watch.timeline(),
    phases: used,
    distributions: context.spread,
    warnings,
    record,
  };
}

/** The blocks that calibration walks through: all of the model's. */
function calibratedBlocks({ model, blocks }: Plan): Map<string, Block> {
  const named = new Map(model?.blocks.map((block) => [block.name, block]));
  return new Map(blocks.flatMap(({ name }) => {
    const block = named.get(name);
    return block ? [[name, block] as const] : [];
  }));
}

/** Whether a tensor needs no calibration even where its block is calibrated. */
function isCopied({ fate }: Step): boolean {
  return fate.kind === "copy" || fate.kind === "drop";
}

/** Every tensor that a run reads, in order: each block's for quantizing, then again for the windows. */
function readings(
  { blocks, model }: Plan,
  { measured, calibrated }: { measured: boolean; calibrated: ReadonlyMap<string, Block> },
): Reading[] {
  const whole = (name: string | undefined) =>
    model ? tensorsRead(model, name).map((name) => ({ name })) : [];
  const again = (name: string | undefined) => measured ? whole(name) : [];
  return [
    ...blocks.flatMap(({ name, steps }) => {
      const read = steps.filter(({ fate }) => fate.kind !== "drop");
      const named = (steps: readonly Step[]) => steps.map(({ source: { name } }) => ({ name }));
      return calibrated.has(name) ? [...whole(name), ...named(read.filter(isCopied))] : [
        ...named(read),
        ...(name === "embedding" && calibrated.size > 0 ? whole(name) : []),
        ...again(name),
      ];
    }),
    ...again(undefined),
  ];
}

/** Output tensors that the scores are computed from: the last block's, and the output head's, which may be the embedding. */
function neededAtTheEnd({ model, blocks }: Plan): ReadonlySet<string> {
  const head = blocks.flatMap(({ steps }) => steps).filter(({ source }) =>
    source.name === model?.head.weight
  );
  const steps = [...head, ...blocks.at(-1)?.steps ?? []];
  return new Set(steps.flatMap(({ outputs }) => outputs).map(({ name }) => name));
}
