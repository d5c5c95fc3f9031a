/**
 * What calibrating a block takes: weights and codes, and stage after stage the sums that observers
 * keep, windows on their way, factors, slices that are rounded. Bytes throughout.
 */
import type { DeviceLimits } from "../backend.ts";
import type { Model } from "../family.ts";
import { type BlockGraph, graphsOf, type Stage } from "../graph/block_graph.ts";
import { walkWidths } from "../graph/live.ts";
import { residualEdge } from "../graph/residual.ts";
import { originalPlace } from "../graph/stops.ts";
import { factorWork } from "../linalg/factor.ts";
import { isOutside } from "../linalg/panels.ts";
import { gram } from "../observers/gram.ts";
import { FACTOR_BLOCK } from "../ops/factor_block.ts";
import { schemeKind } from "../schemes/mod.ts";
import { byteLength, matrixShape, sum } from "../tensor.ts";
import { type Held, heldOf, larger, NOTHING, together } from "./held.ts";
import { inputObserver, isCalibrated, observersOf } from "./needs.ts";
import type { WindowsRequest } from "./planned.ts";
import { stackTokens } from "./stacks.ts";
import type { TensorTask, Unit } from "./tasks.ts";

/** What calibrating the largest block holds at once, hidden states apart. */
export function calibrationMemory(
  units: readonly Unit[],
  model: Model,
  { calibration, propagate, device, outsideBytes }: {
    readonly calibration: WindowsRequest;
    readonly propagate: boolean;
    readonly device: DeviceLimits;
    /** Bytes from which matrices lie outside of the device's memory. */
    readonly outsideBytes: number | undefined;
  },
): Held {
  const tokens = stackTokens(calibration, { model, device });
  const all = calibration.windows * calibration.seqLen;
  const tasks = new Map(units.flatMap(({ tasks }) => tasks).map((task) => [task.name, task]));
  return graphsOf(model).reduce(
    (most, graph) =>
      larger(most, blockMemory(graph, { tasks, tokens, all, propagate, outsideBytes })),
    NOTHING,
  );
}

/** What the memory of a block under calibration depends on. */
interface BlockSurroundings {
  readonly tasks: ReadonlyMap<string, TensorTask>;
  /** Of one stack of windows, and of all. */
  readonly tokens: number;
  readonly all: number;
  readonly propagate: boolean;
  readonly outsideBytes: number | undefined;
}

function blockMemory(graph: BlockGraph, how: BlockSurroundings): Held {
  // Weights as they were, and their codes until the block is packed; packed, they are on the host
  // twice.
  let [device, host] = [0, 0];
  for (const { name, rows, columns } of graph.matrices) {
    const task = how.tasks.get(name)!;
    device += byteLength(task.source);
    if (task.kind !== "quantize") continue;
    device += schemeKind(task.scheme).codeBytes(task.scheme, rows, columns);
    host += 2 * sum(task.outputs, byteLength);
  }
  const stages = graph.stages.map((stage) => stageMemory(graph, stage, how));
  return together(heldOf(device, host), stages.reduce(larger, NOTHING));
}

/**
 * Slices of a weight, f32, that rounding holds at once: the target, scaled, and while codes are
 * chosen reordered, errors, values; or while scales are refitted, three products more.
 */
const SLICE_COPIES = { usual: 5, refit: 8 };

function stageMemory(
  graph: BlockGraph,
  stage: Stage,
  { tasks, tokens, all, propagate, outsideBytes }: BlockSurroundings,
): Held {
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
  const statistics = heldOf(sum(others, ({ bytes }) => bytes(channels, all)));
  const slices = calibrated.map(({ sliceRows, rule: { options } }) =>
    SLICE_COPIES[options.refit === true ? "refit" : "usual"] * sliceRows * channels * 4
  );
  // What a search looks at of all weights of the stage is on the device together.
  const searching = calibrated.flatMap(({ chain, rule: { options } }) =>
    chain.smoothing.map(({ workBytes }) =>
      calibrated.length * (workBytes?.(channels, options) ?? 0)
    )
  );
  const working = heldOf(Math.max(...slices, ...searching));
  if (!observers.has(gram)) return together(statistics, larger(passing, working));
  const square = matrixMemory(channels, channels, outsideBytes);
  // Of a factor that lies outside, the block at hand is on the device.
  const block = square.host > 0 ? FACTOR_BLOCK * channels * 4 : 0;
  const work = factorWork(channels);
  const beside = square.host > 0
    ? heldOf(work.device + block, work.columns)
    : heldOf(work.device + work.columns);
  const factor = together(square, beside);
  if (!propagate) {
    return together(statistics, square, larger(passing, together(factor, working)));
  }
  const joining = residualEdge(graph, stage)?.linear.rows;
  const gap = heldOf(tokens * (joining ?? channels) * 4);
  return together(
    statistics,
    square,
    matrixMemory(joining ?? channels, channels, outsideBytes),
    [
      together(passing, gap),
      // Sums that are solved with as a whole need as much again.
      joining === undefined ? together(factor, square) : factor,
      // The factor that targets are moved with, and that of the rounding.
      together(factor, factor, working),
    ].reduce(larger),
  );
}

/** A matrix of which products are made: on the device, or beside its kernels' memory. */
function matrixMemory(rows: number, columns: number, outsideBytes: number | undefined): Held {
  const bytes = rows * columns * 4;
  return isOutside(rows, columns, outsideBytes) ? heldOf(0, bytes) : heldOf(bytes);
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
