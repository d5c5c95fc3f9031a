/**
 * One block quantized with calibration, stage after stage: observe the inputs of the linears that
 * come next, move their targets and scales, choose codes, go on with the quantized weights. What is
 * packed is packed at the end of the block, because a later stage may still divide the rows of a
 * weight that makes its input.
 */
import type { Scope, Tensor } from "../backend.ts";
import { Pace } from "../pace.ts";
import type { BlockGraph, Stage } from "../graph/block_graph.ts";
import { scaleColumns } from "../linalg/channels.ts";
import type { Rounder, SmoothableWeight } from "../method.ts";
import type { Observer } from "../observer.ts";
import { type StageSmoothing, stageSmoothing } from "../plan/smoothing.ts";
import type { QuantizeTask, TensorTask } from "../plan/tasks.ts";
import {
  isForPredictions,
  scheduleOf,
  type Tuning,
  tuningOf,
  windowsTogether,
} from "../plan/tuning.ts";
import type { BlockContext } from "./block_context.ts";
import { BlockTensors } from "./block_tensors.ts";
import { Group } from "./group.ts";
import { CalibrationMeasure } from "./output_error.ts";
import type { TargetMover } from "./propagation.ts";
import { type QuantizedSlice, type QuantizedWeight, unscaled } from "./quantized_weight.ts";
import { Roundings } from "./roundings.ts";
import { moveScales } from "./smoothing.ts";
import { type ObservedInput, StageInputs } from "./stage_inputs.ts";
import { outputLoss, predictionLoss } from "./training_loss.ts";
import { type TrainedSlice, tuneBlock } from "./tuning.ts";
import { UntoldFacts } from "./untold_facts.ts";

/**
 * Quantize one block, and send every window through it, or if it is the `last` only as far as it
 * must. Of several outputs there are several contexts, all of one calibration on the original's
 * states (`float`), untrained: windows walk once for all of them, and what is seen is seen once.
 */
export async function quantizeBlock(
  graph: BlockGraph,
  contexts: readonly BlockContext[],
  { last }: { readonly last: boolean },
): Promise<BlockTensors[]> {
  const works = contexts.map((context) => new BlockWork(graph, context));
  const [first] = works as [BlockWork];
  for (const work of works) work.begin();
  for (const stage of graph.stages) {
    using scope = contexts[0]!.backend.scope();
    const asked = works.map((work) => work.ask(stage));
    const observers = new Set(asked.flatMap(({ observers }) => observers));
    const observed = await first.inputs.observe(stage, observers, scope);
    for (const [i, work] of works.entries()) {
      const own = asked[i]!;
      // Methods take what was seen though they need not have it; what others ask for is not theirs.
      const statistics = observed.statistics.only(own.observers);
      await work.quantizeStage(stage, { ...own, observed: { ...observed, statistics }, scope });
    }
  }
  for (const work of works) await work.tune();
  if (!last) await first.inputs.finish({ trained: first.isTrained });
  for (const work of works) await work.tellFacts();
  return works.map(({ tensors }) => tensors);
}

/** What a stage is to be quantized by. */
interface AskedStage {
  readonly groups: readonly Group[];
  readonly smoothing: StageSmoothing | undefined;
  /** What looks at the inputs before anything is moved. */
  readonly observers: readonly Observer[];
  /** What looks at them when scales were moved. */
  readonly fixing: readonly Observer[];
}

/** Scales that were moved out of a stage's input, and how strongly. */
interface Smoothed {
  readonly scales: Float32Array<ArrayBuffer>;
  readonly strength: number;
}

class BlockWork {
  readonly tensors: BlockTensors;
  readonly inputs: StageInputs;
  readonly #graph: BlockGraph;
  readonly #context: BlockContext;
  readonly #tasks: ReadonlyMap<string, TensorTask>;
  readonly #pace: Pace;
  /** By what the block is trained in the end, and the slices that are, by matrix. */
  readonly #tuning: Tuning | undefined;
  readonly #trained = new Map<string, TrainedSlice[]>();
  /** Read together at the end of the block. */
  readonly #untold = new UntoldFacts();

  constructor(graph: BlockGraph, context: BlockContext) {
    this.#graph = graph;
    this.#context = context;
    this.tensors = new BlockTensors(context.original);
    this.inputs = new StageInputs(graph, context, this.tensors);
    this.#pace = new Pace(context.backend, context.signal);
    this.#tasks = new Map(context.tasks.map((task) => [task.name, task]));
    this.#tuning = tuningOf(context.tasks);
  }

  /** Whether the block is trained in the end. */
  get isTrained(): boolean {
    return this.#tuning !== undefined;
  }

  /** Before the first stage. */
  begin(): void {
    if (this.#tuning) this.#context.calibration.hold(this.#graph);
  }

  /** What a stage is to be quantized by, and what is to be seen of its input. */
  ask(stage: Stage): AskedStage {
    const tasks = stage.matrices.flatMap(({ name }) => {
      const task = this.#tasks.get(name);
      return task?.kind === "quantize" ? [task] : [];
    });
    const groups = Group.of(tasks, this.#context.report);
    const smoothing = stageSmoothing(this.#graph, stage, (name) => this.#tasks.get(name));
    const before = groups.flatMap(({ observers }) => observers);
    const fixing = groups.flatMap(({ inputObserver }) => inputObserver ?? []);
    return { groups, smoothing, fixing, observers: smoothing ? before : [...before, ...fixing] };
  }

  /** Quantize the linears of a stage, whose input was observed. */
  async quantizeStage(
    stage: Stage,
    { groups, smoothing, fixing, observed, scope }: AskedStage & {
      readonly observed: ObservedInput;
      readonly scope: Scope;
    },
  ): Promise<void> {
    using roundings = new Roundings({ ...this.#context, statistics: observed.statistics });
    const smoothed = smoothing &&
      await this.#smooth(smoothing, groups, { ...observed, roundings });
    // A fixed scale is for the input as its linears get it.
    const inputs = smoothing && fixing.length > 0
      ? await this.inputs.look(stage, new Set(fixing), scope)
      : observed.statistics;
    for (const group of groups) {
      const rounder = await roundings.of(group);
      const inputScale = group.inputScale(inputs);
      for (const task of group.tasks) {
        await this.#round(task, { group, rounder, smoothed, inputScale, ...observed });
      }
    }
  }

  /** Train the block, if some method of its weights does. */
  async tune(): Promise<void> {
    if (!this.#tuning) return;
    const { calibration, original, backend, signal, trace, model, originals } = this.#context;
    await this.tellFacts();
    const graph = this.#graph;
    const windows = await trace.time("walk", () => calibration.aim({ graph, original, signal }));
    const schedule = scheduleOf(this.#tuning, windows.count);
    const { stackTokens, length: { windowTokens: seqLen } } = calibration;
    const together = windowsTogether(schedule, { stackTokens, seqLen });
    const tuning = await trace.time("tune", async () => {
      using held = backend.scope();
      using loss = isForPredictions(model, graph, schedule)
        ? await predictionLoss(model, graph, {
          weights: originals,
          tables: windows.tables,
          tokens: together * seqLen,
          scope: held,
          signal,
        })
        : outputLoss(backend, graph.width(graph.block.output));
      return await tuneBlock(graph, {
        weights: this.#slicesInTraining(),
        tensors: this.tensors,
        windows,
        schedule,
        loss,
        together,
        backend,
        count: (windows) => calibration.count(graph, windows),
        signal,
      });
    });
    for (const name of this.#trained.keys()) {
      const weight = this.tensors.weight(name);
      weight.facts = { ...weight.facts, tuning };
    }
  }

  #slicesInTraining(): Map<string, TrainedSlice[]> {
    return new Map([...this.#trained].map(([name, slices]) => {
      const { rowFactors } = this.tensors.weight(name);
      const all = slices.map((slice) => ({
        ...slice,
        rowFactors: rowFactors?.slice(slice.rows.from, slice.rows.to),
      }));
      return [name, all];
    }));
  }

  /** Find the scales that are moved to what makes a stage's input, and move them. */
  async #smooth(
    { methods, source }: StageSmoothing,
    groups: readonly Group[],
    { statistics, mover, roundings }: ObservedInput & { readonly roundings: Roundings },
  ): Promise<Smoothed | undefined> {
    using _ = this.#context.trace.begin("scales");
    const { backend, report, scope, signal } = this.#context;
    const weights = groups.flatMap((group) =>
      group.tasks.map(({ name, weight }): SmoothableWeight => ({
        name,
        rows: weight.shape[0]!,
        scheme: group.scheme,
        take: (ids, scope) => this.#target(name, ids, { mover, scope }),
        alike: group,
        rounder: () => roundings.of(group),
      }))
    );
    for (const method of methods) {
      const found = await method.smooth({
        weights,
        options: groups[0]!.options,
        statistics,
        backend,
        shared: source.kind === "linear" ? source.rows : undefined,
        report,
        signal,
      });
      if (!found) continue;
      // Rows of a weight that was rounded change, and with them its scales, which are told of.
      if (source.kind === "linear") await this.tellFacts();
      const moved = await moveScales(source, found.scales, { block: this.tensors, scope });
      this.inputs.factor = moved.inputFactor;
      return { scales: moved.scales, strength: found.strength };
    }
    return undefined;
  }

  /** Rows of a weight as they are to be rounded, scales apart: f32[n, C] in `scope`. */
  async #target(
    name: string,
    ids: Uint32Array<ArrayBuffer>,
    { mover, scope }: { mover: TargetMover | undefined; scope: Scope },
  ): Promise<Tensor> {
    const weight = this.#context.original.rows(name, ids, scope);
    await mover?.move(weight, ids);
    return weight;
  }

  /** Choose the codes of one weight. */
  async #round(
    task: QuantizeTask,
    { group, rounder, mover, smoothed, statistics, inputScale }: ObservedInput & {
      group: Group;
      rounder: Rounder;
      smoothed: Smoothed | undefined;
      inputScale: number | undefined;
    },
  ): Promise<void> {
    using _ = this.#context.trace.begin("round");
    const { backend, original, scope, signal, trace, metrics } = this.#context;
    const { importance } = rounder.remarks;
    const { name, weight: { shape: [rows = 0] }, sliceRows } = task;
    const scales = smoothed?.scales;
    const measure = metrics
      ? new CalibrationMeasure({ scope, statistics, importance, scales })
      : undefined;
    const fixed = inputScale === undefined ? {} : { input_scale: scalar(inputScale, scope) };
    const slices: QuantizedSlice[] = [];
    const losses: Tensor[] = [];
    for (let from = 0; from < rows; from += sliceRows) {
      signal?.throwIfAborted();
      const to = Math.min(rows, from + sliceRows);
      using inner = backend.scope();
      const ids = Uint32Array.from({ length: to - from }, (_, i) => from + i);
      const weight = await this.#target(name, ids, { mover, scope: inner });
      const parts = scales && [scales];
      const { quantized, loss } = await rounder.round({ weight, scales: parts, scope });
      const tensors = { ...quantized.tensors, ...fixed };
      const slice = { rows: { from, to }, quantized: { ...quantized, tensors } };
      slices.push(slice);
      if (loss) losses.push(loss);
      const { options, chain: { tuning, rounding } } = group;
      const compensated = rounding.compensates === true;
      const target = tuning && parts ? scaleColumns(weight, parts, inner) : weight;
      const trained = tuning?.open({ target, quantized, options, compensated, scope });
      if (trained) {
        this.#trained.getOrInsertComputed(name, () => []).push({ rows: slice.rows, trained });
      }
      if (!measure) continue;
      await trace.time("measure", () =>
        measure.add(quantized, {
          original: (scope) => original.rows(name, ids, scope),
          values: (scope) => unscaled({ scales }, slice, scope),
          scope: inner,
          signal,
        }));
    }
    const { damping, fallback } = rounder.remarks;
    const weight: QuantizedWeight = {
      task,
      slices,
      scales,
      facts: {
        method: group.chain.name,
        tokens: statistics.tokens,
        ...(damping === undefined ? {} : { damping }),
        ...(fallback === undefined ? {} : { fallback }),
        ...(smoothed ? { strength: smoothed.strength } : {}),
        ...(inputScale === undefined ? {} : { inputScale }),
      },
    };
    this.tensors.weights.set(name, weight);
    this.#untold.add({ weight, losses, measure });
    await this.#pace.keep();
  }

  /** Read what was measured of all weights, once for the whole block. */
  async tellFacts(): Promise<void> {
    using _ = this.#context.trace.begin("round");
    await this.#untold.tell(this.#context.backend);
  }
}

/** f32[1, 1] */
function scalar(value: number, scope: Scope): Tensor {
  const tensor = scope.alloc("f32", [1, 1]);
  scope.backend.write(tensor, new Uint8Array(Float32Array.of(value).buffer));
  return tensor;
}
