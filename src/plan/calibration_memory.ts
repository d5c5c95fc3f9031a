/**
 * What calibrating a block takes: weights and codes, and stage after stage the sums that observers
 * keep, windows on their way, factors, slices that are rounded. Bytes throughout.
 */
import type { DeviceLimits, MatrixPlaces } from "../backend.ts";
import type { Model } from "../family.ts";
import { type BlockGraph, graphsOf, type Stage } from "../graph/block_graph.ts";
import { walkWidths } from "../graph/live.ts";
import { residualEdge } from "../graph/residual.ts";
import { originalPlace } from "../graph/stops.ts";
import { factorWork } from "../linalg/factor.ts";
import { DISK_PANEL_BYTES, type Place, placeOf } from "../linalg/panels.ts";
import { gram } from "../observers/gram.ts";
import { FACTOR_BLOCK } from "../ops/factor_block.ts";
import { schemeKind } from "../schemes/mod.ts";
import { byteLength, elementCount, matrixShape, type Shape, sum } from "../tensor.ts";
import { type Held, heldOf, isApart, larger, NOTHING, together } from "./held.ts";
import { inputObserver, isCalibrated, observersOf } from "./needs.ts";
import type { WindowsRequest } from "./planned.ts";
import { stackTokens } from "./stacks.ts";
import type { QuantizeTask, TensorTask, Unit } from "./tasks.ts";
import { isForPredictions, scheduleOf, tuningOf, wayBack, windowsTogether } from "./tuning.ts";
import { LOGIT_BYTES, SPILL_BYTES, TABLE_BYTES } from "../limits.ts";

/** What calibrating the largest block holds at once, hidden states apart. */
export function calibrationMemory(
  units: readonly Unit[],
  model: Model,
  { calibration, propagate, device, places }: {
    readonly calibration: WindowsRequest;
    readonly propagate: boolean;
    readonly device: DeviceLimits;
    readonly places: MatrixPlaces | undefined;
  },
): Held {
  const tokens = stackTokens(calibration, { model, device });
  const tasks = new Map(units.flatMap(({ tasks }) => tasks).map((task) => [task.name, task]));
  return graphsOf(model).reduce(
    (most, graph) =>
      larger(
        most,
        blockMemory(graph, { model, tasks, tokens, calibration, propagate, device, places }),
      ),
    NOTHING,
  );
}

/** What the memory of a block under calibration depends on. */
interface BlockSurroundings {
  readonly model: Model;
  readonly tasks: ReadonlyMap<string, TensorTask>;
  /** Of one stack of windows. */
  readonly tokens: number;
  readonly calibration: WindowsRequest;
  readonly propagate: boolean;
  readonly device: DeviceLimits;
  readonly places: MatrixPlaces | undefined;
}

function blockMemory(graph: BlockGraph, how: BlockSurroundings): Held {
  // Weights as they were, and their codes until the block is packed; packed, they are on the host
  // twice.
  let [device, host, packed, largest] = [0, 0, 0, 0];
  for (const { name, rows, columns } of graph.matrices) {
    const task = how.tasks.get(name)!;
    device += byteLength(task.source);
    largest = Math.max(largest, byteLength(task.source));
    if (task.kind !== "quantize") continue;
    device += schemeKind(task.scheme).codeBytes(task.scheme, rows, columns);
    const bytes = sum(task.outputs, byteLength);
    host += 2 * bytes;
    packed += bytes;
    device += trainingBytes(task, [rows, columns]).held;
  }
  const steps = [
    ...graph.stages.map((stage) => stageMemory(graph, stage, how)),
    trainingMemory(graph, how),
    // All weights of a block are packed together.
    heldOf(packed),
  ];
  // On its way to a card a weight is whole on the host, and so may be the one before, until the
  // garbage collector comes; on their way back, packed weights are in the driver's memory too.
  if (isApart(how.device)) host += packed + 2 * largest;
  return together(heldOf(device, host), steps.reduce(larger, NOTHING));
}

/** What training a weight takes, gradients apart. */
function trainingBytes(task: QuantizeTask, shape: Shape) {
  const tuning = tuningOf([task]);
  return tuning?.method.bytes({ scheme: task.scheme, shape }, tuning) ?? { held: 0, steps: 0 };
}

/** A block in training, or on the way of all windows through it before and after. */
function trainingMemory(
  graph: BlockGraph,
  { model, tasks, tokens, calibration: { windows, seqLen } }: BlockSurroundings,
): Held {
  const own = graph.matrices.map(({ name }) => tasks.get(name));
  const tuning = tuningOf(own);
  if (!tuning) return NOTHING;
  const quantized = own.flatMap((task) => task?.kind === "quantize" ? [task] : []);
  const product = (tokens: number) =>
    Math.max(
      ...quantized.map(({ scheme, weight: { shape } }) =>
        schemeKind(scheme).linearBytes(scheme, matrixShape(shape), tokens)
      ),
    );
  const schedule = scheduleOf(tuning, windows);
  const together = windowsTogether(schedule, { stackTokens: tokens, seqLen });
  const some = together * seqLen;
  const { input, output } = graph.block;
  const trained = quantized.flatMap((task) => {
    const { weight: { shape }, chain } = task;
    return chain.tuning
      ? [{ elements: elementCount(shape), steps: trainingBytes(task, shape).steps }]
      : [];
  });
  const isNarrow = schedule.gradients === "bf16";
  const gradients = sum(trained, ({ elements, steps }) => elements * (isNarrow ? 2 : 4) + steps);
  // Input, target and error; in the end, levels of one weight.
  const batch = some * 4 * (graph.width(input) + 2 * graph.width(output));
  const way = wayBack(graph, { tokens: some, seqLen }, { inputGradient: false }).bytes +
    product(some) + batch;
  // At each step a gradient that is narrow, in the end the levels of a weight.
  const levels = Math.max(...trained.map(({ elements }) => elements * 4));
  const walking = walkWidths(graph, { from: 0, to: graph.nodes.length }).most * tokens * 4;
  const predictions = isForPredictions(model, graph, schedule)
    ? predictionMemory(graph, { model, tasks, tokens: some, seqLen })
    : 0;
  const training = gradients + predictions + Math.max(way + (isNarrow ? levels : 0), levels);
  return heldOf(Math.max(training, walking + product(tokens)));
}

/**
 * What stands behind a block that is trained for predictions, and the way of a stack through it and
 * back: blocks and the head as they were, logits of both models and of what is bounded, some states
 * of the head's.
 */
function predictionMemory(
  graph: BlockGraph,
  { model, tasks, tokens, seqLen }: Pick<BlockSurroundings, "model" | "tasks" | "tokens"> & {
    readonly seqLen: number;
  },
): number {
  const graphs = graphsOf(model);
  const bytesOf = (name: string) => byteLength(tasks.get(name)!.source);
  const after = sum(
    graphs.slice(graphs.indexOf(graph) + 1),
    (next) =>
      sum(next.matrices, ({ name }) => bytesOf(name)) +
      wayBack(next, { tokens, seqLen }, { inputGradient: true }).bytes,
  );
  const { head, vocabSize, hiddenSize } = model;
  const stored = sum(head ? [head.linear.at.of] : [], bytesOf);
  const logits = Math.min(LOGIT_BYTES, tokens * vocabSize * 4);
  const slice = Math.min(TABLE_BYTES, vocabSize * hiddenSize * 4);
  return after + stored + 3 * logits + slice + 6 * tokens * hiddenSize * 4;
}

/**
 * Slices of a weight, f32, that rounding holds at once: the target, that without channels that are
 * always 0, and while codes are chosen reordered, errors, values; with refitted scales three more.
 */
const SLICE_COPIES = { usual: 5, refit: 8 };

function stageMemory(
  graph: BlockGraph,
  stage: Stage,
  { tasks, tokens, calibration, propagate, device, places }: BlockSurroundings,
): Held {
  const all = calibration.windows * calibration.seqLen;
  const { channels, matrices } = stage;
  const quantized = matrices.flatMap(({ name }) => {
    const task = tasks.get(name);
    return task?.kind === "quantize" ? [task] : [];
  });
  const products = quantized.map(({ scheme, weight: { shape } }) =>
    schemeKind(scheme).linearBytes(scheme, matrixShape(shape), tokens)
  );
  const passing = heldOf(
    tokens * 4 * passingWidth(graph, stage, propagate) + Math.max(0, ...products),
  );
  const calibrated = quantized.filter(isCalibrated);
  if (calibrated.length === 0) return passing;
  const observers = new Set(calibrated.flatMap((task) => {
    const fixing = inputObserver(task.scheme, task.rule.options);
    return [...observersOf(task), ...(fixing ? [fixing] : [])];
  }));
  const others = [...observers].filter((observer) => observer !== gram);
  // A shard's sums, and those of all before it.
  const apart = (calibration.shards ?? 1) > 1;
  const statistics = heldOf((apart ? 2 : 1) * sum(others, ({ bytes }) => bytes(channels, all)));
  const slices = calibrated.map(({ sliceRows, rule: { options } }) =>
    SLICE_COPIES[options.refit === true ? "refit" : "usual"] * sliceRows * channels * 4
  );
  const heights = calibrated.map(({ weight: { shape } }) => matrixShape(shape)[0]);
  // What a search looks at of all weights of the stage is on the device together.
  const searching = calibrated.flatMap(({ chain, rule: { options } }) =>
    chain.smoothing.map(({ workBytes }) => workBytes?.(heights, channels, { options, device }) ?? 0)
  );
  const working = heldOf(Math.max(...slices, ...searching));
  if (!observers.has(gram)) return together(statistics, larger(passing, working));
  const inPanels = placeOf([channels, channels], places, { inPanels: true });
  const square = matrixMemory([channels, channels], inPanels);
  const work = factorWork(channels);
  // What making a factor takes beside it, which is free again when it serves.
  const making = inPanels === "device"
    ? heldOf(work.device + work.columns)
    // The block at hand is on the device.
    : heldOf(work.device + FACTOR_BLOCK * channels * 4, work.columns);
  const serving = larger(making, working);
  const joining = propagate ? residualEdge(graph, stage)?.linear.rows : undefined;
  // What an op has in memory of matrices on disk: a panel; of sums that are solved with, one of
  // them as it was, one as it will be, and one of the factor.
  const panels = propagate && joining === undefined ? 3 : 1;
  const windows = heldOf(0, inPanels === "disk" ? panels * DISK_PANEL_BYTES : 0);
  // On its way from a shard's sums to those of all, some rows are in memory.
  const moving = apart ? heldOf(2 * SPILL_BYTES, 2 * SPILL_BYTES) : NOTHING;
  if (!propagate) {
    const gathering = together(passing, apart ? square : NOTHING, moving);
    return together(statistics, square, windows, larger(gathering, together(square, serving)));
  }
  const gap = heldOf(tokens * (joining ?? channels) * 4);
  const joined = joining === undefined
    ? square
    : matrixMemory([joining, channels], placeOf([joining, channels], places));
  return together(
    statistics,
    square,
    windows,
    joined,
    [
      together(passing, gap, moving, ...(apart ? [square, joined] : [])),
      // Sums that are solved with as a whole need as much again.
      together(square, making, joining === undefined ? square : NOTHING),
      // The factor that targets are moved with, and that of the rounding.
      together(square, square, serving),
    ].reduce(larger),
  );
}

/** A matrix of which products are made. */
function matrixMemory([rows, columns]: readonly [number, number], place: Place): Held {
  const bytes = rows * columns * 4;
  return place === "device"
    ? heldOf(bytes)
    : place === "outside"
    ? heldOf(0, bytes)
    : heldOf(0, 0, bytes);
}

/** Floats per token of a stack's states on their way to a stage, in both streams. */
function passingWidth(graph: BlockGraph, stage: Stage, propagate: boolean): number {
  const before = graph.stages[graph.stages.indexOf(stage) - 1];
  const from = before?.at ?? 0;
  const quantized = walkWidths(graph, { from, to: stage.at });
  if (!propagate) return quantized.most;
  const original = walkWidths(graph, {
    from: before ? originalPlace(graph, before) : 0,
    to: originalPlace(graph, stage),
  });
  return Math.max(quantized.most, quantized.end + original.most);
}
