/**
 * The peak memory of a run, from the plan: what each phase holds at once, and the largest of them.
 * Bytes throughout.
 */
import type { DeviceLimits, MatrixPlaces } from "../backend.ts";
import type { Model } from "../family.ts";
import type { Format } from "../format.ts";
import { graphsOf } from "../graph/block_graph.ts";
import { walkWidths } from "../graph/live.ts";
import { stateWidths, type Streams } from "../graph/stops.ts";
import {
  COPY_BYTES,
  LOGIT_BYTES,
  POOL_BYTES,
  READ_AHEAD_BYTES,
  SMALL_BYTES,
  SPILL_BYTES,
  STREAM_ERROR_BYTES,
  TABLE_BYTES,
  WRITE_BEHIND_BYTES,
} from "../limits.ts";
import { schemeKind } from "../schemes/mod.ts";
import { BITS, byteLength, matrixShape, sum } from "../tensor.ts";
import { calibrationMemory } from "./calibration_memory.ts";
import { type Held, heldOf, isApart, larger, NOTHING } from "./held.ts";
import type { MemoryPlan, Walks, WindowsRequest } from "./planned.ts";
import { spilledTokens, stackTokens } from "./stacks.ts";
import type { TensorTask, Unit } from "./tasks.ts";

/**
 * Resident bytes beside what is counted here: runtime and program 90 MB, compiled kernels and
 * buffers that wait for the garbage collector 95 MB (70 MB where nothing is calibrated), a Vulkan
 * driver that was asked for its adapters 90 MB; that of an NVIDIA card with its compiled kernels
 * 275 MB. Measured on Linux with Deno 2.9, the latter on an H100.
 */
const BASE = { wasm: 275e6, webgpu: 335e6, reference: 275e6 } as const;
const BASE_OF_CARD = 520e6;

/** Resident bytes of a process that reads a model on a device, beside what lies on the device. */
export function runtimeBytes(device: DeviceLimits): number {
  return (isApart(device) ? BASE_OF_CARD : BASE[device.name]) + READ_AHEAD_BYTES;
}

/** What the memory of windows on their way depends on. */
export interface Surroundings extends Streams {
  readonly model: Model | undefined;
  readonly windows: Walks;
}

/** Plan the memory of a run. */
export function planMemory(
  units: readonly Unit[],
  { device, places, format, buffers, besideStates, ...around }: Surroundings & {
    readonly device: DeviceLimits;
    readonly places: MatrixPlaces | undefined;
    readonly format: Format;
    /** `TensorSource.bufferBytes`, and what a tokenizer was parsed into. */
    readonly buffers: number;
    /** Bytes of hidden states of other outputs. */
    readonly besideStates: number;
  },
): MemoryPlan {
  const { model, windows: { evaluation, calibration: calibrated } } = around;
  const apart = isApart(device);
  const base = runtimeBytes(device) + WRITE_BEHIND_BYTES + buffers;
  const slices = units.flatMap(({ tasks }) => tasks)
    .reduce((most, task) => larger(most, taskMemory(task, format)), NOTHING);
  const slice = Math.ceil(slices.both);
  const ahead = device.name === "wasm" ? aheadOnDevice(units, calibrated !== undefined) : 0;
  // Buffers that wait to be used again, and those that are destroyed when the device has done.
  const idle = apart ? 2 * POOL_BYTES : 0;
  if (!model || !(evaluation || calibrated)) {
    const nothing = { weights: 0, calibration: 0, states: besideStates, activations: 0 };
    return {
      base,
      slice,
      ...nothing,
      peak: base + (apart ? Math.ceil(slices.host) : slice + besideStates),
      device: Math.ceil(slices.device) + besideStates + SMALL_BYTES + idle + ahead,
      disk: 0,
    };
  }
  const { held: weights, activations } = evaluation
    ? evaluationMemory(units, model, { evaluation, format, device })
    : { held: NOTHING, activations: 0 };
  const calibration = calibrated
    ? calibrationMemory(units, model, {
      calibration: calibrated,
      propagate: around.propagate,
      device,
      places,
    })
    : NOTHING;
  const states = besideStates + statesInMemory(model, { ...around, device });
  const walking = heldOf(weights.device + activations, weights.host);
  const most = larger(larger(slices, walking), calibration);
  return {
    base,
    slice,
    weights: weights.both,
    calibration: calibration.both,
    states,
    activations,
    peak: base + (apart ? Math.ceil(most.host) : Math.ceil(most.both) + states),
    device: Math.ceil(most.device) + states + SMALL_BYTES + idle + ahead,
    disk: most.disk,
  };
}

/**
 * Slices of weights that are read ahead into the CPU's kernels' memory; blocks that are calibrated
 * are read as a whole. The base counts them already for the process.
 */
function aheadOnDevice(units: readonly Unit[], calibrated: boolean): number {
  const weights = units.filter(({ place }) => !calibrated || typeof place !== "number")
    .flatMap(({ tasks }) => tasks)
    .flatMap((task) => task.kind === "quantize" ? [task] : []);
  const slices = weights.map(({ weight, sliceRows }) => {
    const [rows] = matrixShape(weight.shape);
    return byteLength(weight) * Math.min(1, sliceRows / rows);
  });
  const all = sum(weights, ({ weight }) => byteLength(weight));
  return Math.ceil(Math.min(all, READ_AHEAD_BYTES + Math.max(0, ...slices)));
}

/** What one tensor's slice on its way holds. */
function taskMemory(task: TensorTask, format: Format): Held {
  if (task.kind === "drop") return NOTHING;
  if (task.kind !== "quantize") {
    // Cast on the host, values are there as they were, as f32, and as they will be.
    const copies = task.kind === "copy" && task.dtype !== task.source.dtype ? 6 : 2;
    return heldOf(0, copies * Math.min(COPY_BYTES, byteLength(task.source)));
  }
  const { scheme, weight, outputs, at, sliceRows } = task;
  const [rows, columns] = matrixShape(weight.shape);
  const bytes = sliceRows * columns * BITS[weight.dtype] / 8;
  const packed = sum(outputs, byteLength);
  // Double quantization needs every absmax of the weight at once: on the host, and at the end on
  // the device with its codes.
  const nested = "doubleQuant" in scheme && scheme.doubleQuant ? rows * columns / scheme.block : 0;
  const part = packed * sliceRows / rows;
  // To be turned, a matrix is read whole, and with format plain turned back whole.
  const turned = at.transposed ? 3 * byteLength(weight) : 0;
  return heldOf(
    // As it was, codes, packed; dequantized to be measured.
    bytes + schemeKind(scheme).workBytes(scheme, sliceRows, columns) + part +
      sliceRows * columns * 4 + nested * (4 + 1),
    // Read ahead, on its way; packed.
    2 * bytes + part + nested * 4 + (format.gathers ? packed : 0) + turned,
  );
}

/**
 * What a block holds while stacks of windows go through it in both streams, and what one of them
 * holds itself.
 */
function evaluationMemory(
  units: readonly Unit[],
  model: Model,
  { evaluation, format, device: limits }: {
    readonly evaluation: WindowsRequest;
    readonly format: Format;
    readonly device: DeviceLimits;
  },
): { readonly held: Held; readonly activations: number } {
  const { seqLen } = evaluation;
  const tokens = stackTokens(evaluation, { model, device: limits });
  let held = NOTHING;
  let scratch = 0;
  for (const { place, tasks } of units) {
    if (place === "embedding") continue;
    // Of what stands behind the blocks only the head is needed, in slices.
    const needed = place === undefined
      ? tasks.filter(({ source: { name } }) => name === model.head?.linear.at.of)
      : tasks;
    let [device, host] = [0, 0];
    for (const task of needed) {
      if (place !== undefined) device += byteLength(task.source);
      if (task.kind !== "quantize") continue;
      const { scheme, weight, outputs } = task;
      const shape = matrixShape(weight.shape);
      const packed = sum(outputs, byteLength);
      host += packed;
      device += schemeKind(scheme).codeBytes(scheme, ...shape);
      // Packed, it is on the device before any product is computed; columns that are taken out on
      // the host are packed as rows there.
      const taken = format.gathers ? 2 * packed : packed;
      scratch = Math.max(scratch, schemeKind(scheme).linearBytes(scheme, shape, tokens), taken);
    }
    held = larger(held, heldOf(device, host));
  }
  const { vocabSize, hiddenSize } = model;
  const logits = 2 * Math.min(LOGIT_BYTES, seqLen * vocabSize * 4) +
    2 * Math.min(TABLE_BYTES, vocabSize * hiddenSize * 4);
  return { held, activations: Math.max(tokens * activationsPerToken(model) * 4 + scratch, logits) };
}

/** Floats per token that walking through a block takes at some place of it, at most. */
export function activationsPerToken(model: Model): number {
  return graphsOf(model).reduce((most, graph) => {
    const whole = walkWidths(graph, { from: 0, to: graph.nodes.length });
    return Math.max(most, whole.most);
  }, model.hiddenSize);
}

/** Bytes of hidden states kept in memory, and of those that wait there to go to disk together. */
function statesInMemory(
  model: Model,
  { windows: { evaluation, calibration }, device, ...streams }: Surroundings & {
    readonly device: DeviceLimits;
  },
): number {
  const { kept, stores } = stateWidths(model, streams);
  const held = (
    walk: WindowsRequest | undefined,
    { perToken, stores, halves }: { perToken: number; stores: number; halves: 0 | 0.5 },
  ) => {
    if (!walk) return 0;
    const all = walk.windows * walk.seqLen * perToken * 4;
    const spilled = spilledTokens(walk, perToken, { model, device }) * perToken * 4;
    if (spilled === 0) return all;
    const waiting = device.name === "webgpu" ? Math.min(spilled, 2 * stores * SPILL_BYTES) : 0;
    // A stack from disk, and where it goes there in bf16, that.
    const stack = stackTokens(walk, { model, device }) * perToken * 4;
    return all - spilled + waiting + (1 + halves) * stack;
  };
  const errors = evaluation
    ? evaluation.windows * evaluation.seqLen * model.blocks.length * STREAM_ERROR_BYTES
    : 0;
  return errors + held(evaluation, { perToken: 2 * model.hiddenSize, stores: 2, halves: 0 }) +
    held(calibration, { perToken: kept, stores, halves: 0.5 });
}

/** Bytes of all hidden states as f32. */
export function walkBytes(
  model: Model,
  { windows: { evaluation, calibration }, ...streams }: Surroundings,
): { readonly evaluation: number; readonly calibration: number } {
  const tokens = (walk: WindowsRequest | undefined) => walk ? walk.windows * walk.seqLen : 0;
  return {
    evaluation: 2 * tokens(evaluation) * model.hiddenSize * 4,
    calibration: tokens(calibration) * stateWidths(model, streams).kept * 4,
  };
}
