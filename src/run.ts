/**
 * Doing what was planned: read a slice, choose its codes, pack, write, forget; or with calibration, a block at a time (calibrated_block.ts). After
 * each block, send the windows of the evaluation through it in both streams. Refuses nothing; what stops it is a fault.
 */
import type { Backend, Scope, Tensor } from "./backend.ts";
import { Calibration, type CalibrationInput } from "./calibrate.ts";
import { quantizeBlock, type QuantizedWeight, unscaled } from "./calibrated_block.ts";
import { DeviceError } from "./errors.ts";
import type { Score } from "./evaluator.ts";
import type { Block, Model } from "./family.ts";
import type { Packer, Piece } from "./format.ts";
import { METRICS } from "./metrics/mod.ts";
import { ErrorGatherer } from "./metrics/sums.ts";
import type { DeviceDType } from "./op.ts";
import { Output } from "./output.ts";
import type { Plan, Step } from "./plan.ts";
import { ReadAhead } from "./read_ahead.ts";
import { type CalibrationFacts, type Reporter, StepCounter, type TensorReport } from "./report.ts";
import { schemeKind } from "./schemes/mod.ts";
import type { Sink } from "./sink.ts";
import type { Reading, Rows, TensorSource } from "./source.ts";
import { type EvaluationInput, scoreTokens, Streams, tensorsRead } from "./streams.ts";
import { byteLength, elementCount, matrixShape, type TensorInfo } from "./tensor.ts";
import { Stopwatch, type Timeline } from "./timeline.ts";
import { LoadedBlock, type ModelWeights, originalWeights, quantizedWeights } from "./weights.ts";

/** What a run needs beside its plan. */
export interface RunOptions {
  readonly source: TensorSource;
  readonly backend: Backend;
  readonly sink: Sink;
  readonly report?: Reporter;
  /** Stops the run between two slices; nothing is left under the final name. */
  readonly signal?: AbortSignal;
  /** Compute every metric of every quantized weight. */
  readonly metrics?: boolean;
  /** Measure the model in the same pass; the plan must have been made with the same windows. */
  readonly evaluation?: EvaluationInput;
  /** What to calibrate on; required if the plan has a calibration, and must be of the same windows. */
  readonly calibration?: CalibrationInput;
  /** Resident bytes of the process now; sampled for the report's peak. */
  readonly residentBytes?: () => number;
}

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
}

/** The state of one run. */
interface Context extends RunOptions {
  readonly plan: Plan;
  readonly report: Reporter;
  readonly output: Output;
  readonly tensors: TensorReport[];
  /** Packed tensors of the block at hand, kept while it is to be evaluated. */
  readonly packed: Map<string, Uint8Array<ArrayBuffer>>;
  /** Of those, the ones that stay until the end. */
  readonly kept: ReadonlySet<string>;
  readonly reads: ReadAhead;
  readonly watch: Stopwatch;
  peak: number;
}

/**
 * Run a plan.
 *
 * @throws {CheckpointError} a weight holds NaN or infinity, or a file changed since the plan was made.
 * @throws {DeviceError} the device was lost, or has not enough memory for the smallest slice.
 * @throws {SpaceError} the disk is full.
 */
export async function run(plan: Plan, options: RunOptions): Promise<RunReport> {
  const { source, backend, sink, evaluation, signal, report = () => {} } = options;
  const counter = new StepCounter(report);
  const begun = performance.now();
  const watch = new Stopwatch();
  await using output = new Output(plan.files, { sink, report, watch });
  await using streams = evaluation && plan.model
    ? await Streams.open(plan.model, { backend, evaluation, counter })
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
  const calibrated = calibration ? calibratedBlocks(plan) : new Map<string, Block>();
  source.schedule?.(readings(plan, { measured: streams !== undefined, calibrated }));
  const context: Context = {
    ...options,
    plan,
    report,
    output,
    tensors: [],
    packed: new Map(),
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
  const original = originalWeights(source);
  const quantized = quantizedWeights(plan, { source, packed: context.packed });
  for (const { name, steps } of plan.blocks) {
    using scope = backend.scope();
    const block = calibrated.get(name);
    const loaded = block && calibration
      ? await calibrateBlock(block, { context, calibration, original, scope })
      : undefined;
    for (const step of steps) {
      signal?.throwIfAborted();
      if (!block || isCopied(step)) await perform(step, context);
    }
    if (calibration && name === "embedding") await calibration.embed(original);
    if (streams) {
      await watch.time(
        "compute",
        0,
        () => streams.advance(name, [original, quantized], { signal, loaded }),
      );
    }
    sample(context);
    for (const tensor of context.packed.keys()) {
      if (!context.kept.has(tensor)) context.packed.delete(tensor);
    }
  }
  const scores = streams
    ? scoreTokens(
      await watch.time("compute", 0, () => streams.score([original, quantized], { signal })),
      { paired: true },
    )
    : {};
  sample(context);
  await source.verified?.();
  await output.commit(plan.sidecars, source);
  const seconds = (performance.now() - begun) / 1000;
  if (streams) report({ type: "scored", scores });
  report({ type: "finished", seconds, peakBytes: context.peak });
  const timeline = watch.timeline();
  return { tensors: context.tensors, scores, seconds, peakBytes: context.peak, timeline };
}

/** The calibration of a plan that has one. */
async function openCalibration(
  { model, calibration: planned, recipe }: Plan,
  { backend, calibration: input, report = () => {} }: RunOptions,
  counter: StepCounter,
): Promise<Calibration | undefined> {
  if (!planned || !model) return undefined;
  if (input?.windows.length !== planned.windows) {
    throw new RangeError(
      `Cannot run the plan: it calibrates on ${planned.windows} windows, got ${
        input?.windows.length ?? 0
      }`,
    );
  }
  warnOfFewTokens(model, input, report);
  const { propagate } = recipe;
  return await Calibration.open(model, { backend, input, propagate, counter });
}

/** A Gram matrix of fewer tokens than it has rows does not have full rank. */
function warnOfFewTokens(
  { blocks }: Model,
  { windows }: CalibrationInput,
  report: Reporter,
): void {
  const tokens = windows.length * windows[0]!.length;
  const widest = Math.max(...blocks.flatMap(({ steps }) => steps.map(({ channels }) => channels)));
  if (tokens >= widest) return;
  report({
    type: "warning",
    code: "few-tokens",
    message:
      `Calibrating on ${tokens} tokens, fewer than the ${widest} inputs of the widest layer: ` +
      "the result will be worse than it could be. Use more windows (--num-samples) or longer ones (--seq-len).",
  });
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

function sample(context: Context): void {
  context.peak = Math.max(context.peak, context.residentBytes?.() ?? 0);
}

async function perform(step: Step, context: Context): Promise<void> {
  switch (step.fate.kind) {
    case "quantize":
      return await quantizeWeight(step, context);
    case "copy":
      return await copyTensor(step, context);
    case "scale":
    case "drop":
      return;
  }
}

/** Quantize a block with calibration, and write it; the block as it was, on the device until `scope` ends. */
async function calibrateBlock(
  block: Block,
  { context, calibration, original, scope }: {
    context: Context;
    calibration: Calibration;
    original: ModelWeights;
    scope: Scope;
  },
): Promise<LoadedBlock> {
  const { backend, plan, watch } = context;
  const loaded = await LoadedBlock.load(block, original, { scope });
  using held = backend.scope();
  const last = plan.model?.blocks.at(-1) === block;
  const quantized = await watch.time(
    "compute",
    0,
    () => quantizeBlock(block, { ...context, calibration, original: loaded, scope: held, last }),
  );
  sample(context);
  for (const weight of quantized.weights) await packWeight(weight, loaded, context);
  for (const [name, tensor] of quantized.norms) await writeNorm(name, tensor, context);
  for (
    const { source: { name }, fate } of plan.blocks.find(({ name }) => name === block.name)!.steps
  ) {
    // A norm whose scales were all 1.
    if (fate.kind === "scale" && !quantized.norms.has(name)) {
      await writeNorm(name, loaded.weight(name), context);
    }
  }
  return loaded;
}

/** Write a tensor that calibration may have changed. */
async function writeNorm(name: string, tensor: Tensor, context: Context): Promise<void> {
  const [bytes] = await context.backend.read(tensor);
  if (context.evaluation) context.packed.set(name, new Uint8Array(bytes!.length));
  await writePieces([{ tensor: name, offset: 0, bytes: bytes! }], context);
  context.report({ type: "copied", name, bytes: bytes!.length });
}

/** Pack and write a weight whose codes were chosen. */
async function packWeight(
  weight: QuantizedWeight,
  loaded: LoadedBlock,
  context: Context,
): Promise<void> {
  const { planned, slices, facts } = weight;
  const { source: tensor, fate, outputs } = planned;
  if (fate.kind !== "quantize") return;
  const { backend, plan, metrics } = context;
  keepPacked(outputs, context);
  using scope = backend.scope();
  const packer = plan.format.packer(tensor, fate.scheme, scope);
  using errors = metrics ? new ErrorGatherer(backend) : undefined;
  for (const { rows, quantized } of slices) {
    context.signal?.throwIfAborted();
    await writePieces(await packer.add(quantized, rows), context);
    if (!errors) continue;
    using scratch = backend.scope();
    const ids = Uint32Array.from({ length: rows.to - rows.from }, (_, i) => rows.from + i);
    const values = unscaled(weight, { rows, quantized, scope: scratch });
    await errors.add(loaded.rows(tensor.name, ids, scratch), values);
  }
  await writePieces(await packer.finish(), context);
  finishWeight(planned, { errors, context, calibration: facts });
}

async function copyTensor(
  { source: tensor }: Step,
  { output, reads, report }: Context,
): Promise<void> {
  let offset = 0;
  for (const _ of reads.slicesOf(tensor.name)) {
    const bytes = await reads.next();
    await output.write(tensor.name, offset, bytes);
    offset += bytes.length;
  }
  report({ type: "copied", name: tensor.name, bytes: offset });
}

async function quantizeWeight(step: Step, context: Context): Promise<void> {
  const { source: tensor, fate, outputs } = step;
  if (fate.kind !== "quantize") return;
  const { backend, plan, reads, metrics } = context;
  const [rows, columns] = matrixShape(tensor.shape);
  keepPacked(outputs, context);
  using scope = backend.scope();
  const packer = plan.format.packer(tensor, fate.scheme, scope);
  using errors = metrics ? new ErrorGatherer(backend) : undefined;
  for (const { rows: slice } of reads.slicesOf(tensor.name)) {
    context.signal?.throwIfAborted();
    const bytes = await reads.next();
    const work = () =>
      quantizeSlice(step, {
        bytes,
        rows: slice ?? { from: 0, to: rows },
        columns,
        packer,
        errors,
      }, context);
    await writePieces(await context.watch.time("compute", bytes.length, work), context);
    sample(context);
  }
  await writePieces(await packer.finish(), context);
  finishWeight(step, { errors, context });
}

/** Room for the stored bytes of a weight, which the evaluation runs from. */
function keepPacked(outputs: readonly TensorInfo[], { packed, evaluation }: Context): void {
  if (!evaluation) return;
  for (const output of outputs) packed.set(output.name, new Uint8Array(byteLength(output)));
}

/** Say how a weight fared. */
function finishWeight(
  { source: tensor, fate, outputs }: Step,
  { errors, context, calibration }: {
    errors: ErrorGatherer | undefined;
    context: Context;
    calibration?: CalibrationFacts;
  },
): void {
  if (fate.kind !== "quantize") return;
  const result: TensorReport = {
    name: tensor.name,
    scheme: schemeKind(fate.scheme).label(fate.scheme),
    bitsPerWeight: outputs.reduce((n, output) => n + byteLength(output), 0) * 8 /
      elementCount(tensor.shape),
    metrics: errors
      ? Object.fromEntries(METRICS.map((metric) => [metric.name, metric.compute(errors.sums())]))
      : {},
    ...(calibration ? { calibration } : {}),
  };
  context.tensors.push(result);
  context.report({ type: "quantized", tensor: result, bytes: byteLength(tensor) });
}

interface Slice {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly rows: Rows;
  readonly columns: number;
  readonly packer: Packer;
  readonly errors: ErrorGatherer | undefined;
}

/** Quantize and pack one slice; where the device's memory does not suffice, its halves. */
async function quantizeSlice(step: Step, slice: Slice, context: Context): Promise<Piece[]> {
  const { source: tensor, fate, rowStep } = step;
  if (fate.kind !== "quantize") return [];
  const { rows: { from, to }, bytes, columns, packer, errors } = slice;
  try {
    using scope = context.backend.scope();
    const weight = scope.alloc(tensor.dtype as DeviceDType, [to - from, columns]);
    context.backend.write(weight, bytes);
    const { scheme, rule: { options }, chain } = fate;
    const { report } = context;
    const rounder = await chain.rounding.open({
      names: [tensor.name],
      scheme,
      options,
      scope,
      report,
    });
    const { quantized } = await rounder.round({ weight, scope });
    // All large allocations come before anything is counted, so that halves can start afresh.
    const values = errors && schemeKind(scheme).dequantize(quantized, scope);
    const pieces = await packer.add(quantized, { from, to });
    if (errors && values) await errors.add(weight, values);
    return pieces;
  } catch (error) {
    const half = Math.floor((to - from) / 2 / rowStep) * rowStep;
    if (!(error instanceof DeviceError && error.kind === "memory") || half < 1) throw error;
    context.report({
      type: "warning",
      code: "smaller-slices",
      message: `${error.message} Going on with slices of ${half} rows of "${tensor.name}".`,
    });
    const cut = bytes.length / (to - from) * half;
    const middle = from + half;
    const halves = [
      { ...slice, bytes: bytes.slice(0, cut), rows: { from, to: middle } },
      { ...slice, bytes: bytes.slice(cut), rows: { from: middle, to } },
    ];
    const pieces: Piece[] = [];
    for (const half of halves) pieces.push(...await quantizeSlice(step, half, context));
    return pieces;
  }
}

async function writePieces(pieces: readonly Piece[], { output, packed }: Context): Promise<void> {
  for (const { tensor, offset, bytes } of pieces) {
    packed.get(tensor)?.set(bytes, offset);
    await output.write(tensor, offset, bytes);
  }
}
