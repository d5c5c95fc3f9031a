/** The peak memory of a run, from the plan: what each phase holds at once, and the largest of them. Bytes throughout. */
import { inputObserver, isCalibrated, observersOf } from "./assign.ts";
import { statesPerToken } from "./calibrate.ts";
import { UnsupportedError } from "./errors.ts";
import { factorBytes } from "./factor.ts";
import type { DeviceLimits, PlannedBlock, Step, WindowsRequest } from "./plan.ts";
import type { Block, Model, Step as BlockStep } from "./family.ts";
import type { Format } from "./format.ts";
import { gram } from "./observers/gram.ts";
import { propagationBytes } from "./propagation.ts";
import { schemeKind } from "./schemes/mod.ts";
import { size, sizeToGive } from "./size.ts";
import { BITS, byteLength, matrixShape } from "./tensor.ts";

/** Where the memory of a run goes. */
export interface MemoryPlan {
  /** The runtime, the compiled program and the device's own needs; measured, not computed. */
  readonly base: number;
  /** The largest tensor slice on its way: read ahead, on the device, quantized, packed. */
  readonly slice: number;
  /** The block under evaluation: its weights in both streams, and its packed bytes. */
  readonly weights: number;
  /** The block under calibration: its weights and their codes, statistics and factors of one step, a slice at work. */
  readonly calibration: number;
  /** Hidden states of all windows that are kept in memory, of the evaluation and of the calibration. */
  readonly states: number;
  /** One window's activations and one chunk of logits. */
  readonly activations: number;
  /** The most that is held at once. */
  readonly peak: number;
  /**
   * The most that lies on the device at once: of the parts but the base, what is not on the host.
   */
  readonly device: number;
}

/** What some part of a run holds: on the device, and beside that on the host. */
interface Held {
  readonly device: number;
  readonly host: number;
}

const NOTHING: Held = { device: 0, host: 0 };

/** Bytes in both places. */
const bytesOf = ({ device, host }: Held) => device + host;

/** The most that each place holds, and both together, of things that are not held at once. */
function larger(one: Held, other: Held): Held {
  const device = Math.max(one.device, other.device);
  return { device, host: Math.max(bytesOf(one), bytesOf(other)) - device };
}

/**
 * Resident bytes beside what is counted here: runtime and program 80 MB, compiled kernels and buffers that wait for the garbage
 * collector 95 MB (70 MB where nothing is calibrated), a Vulkan driver that was asked for its adapters 90 MB. Measured on Linux with Deno 2.9.
 */
const BASE = { wasm: 265e6, webgpu: 325e6, reference: 265e6 } as const;

/** Bytes of logits of one stream held at once. */
export const LOGIT_BYTES = 64 * 2 ** 20;

/** Bytes of the embedding table, or of the output head, that are on the device at once, counted as f32. */
export const TABLE_BYTES = 64 * 2 ** 20;

/** Bytes of slices that are read ahead of the computation; one slice at least. */
export const READ_AHEAD_BYTES = 8 * 2 ** 20;

/** Bytes of packed slices that are still being written while the computation goes on. */
export const WRITE_BEHIND_BYTES = 32 * 2 ** 20;

/**
 * Bytes on the device of what is not counted one by one: histograms, sums, lists of columns, rotary
 * tables.
 */
export const SMALL_BYTES = 2 ** 20;

/** Copied tensors are read in pieces of this size. */
export const COPY_BYTES = 8 * 2 ** 20;

function sliceMemory({ source, fate, outputs, sliceRows }: Step, format: Format): Held {
  if (fate.kind === "drop") return NOTHING;
  if (fate.kind !== "quantize") {
    // Cast on the host, values are there as they were, as f32, and as they will be.
    const copies = fate.kind === "copy" && fate.dtype !== undefined ? 6 : 2;
    return { device: 0, host: copies * Math.min(COPY_BYTES, byteLength(source)) };
  }
  const [rows, columns] = matrixShape(source.shape);
  const bytes = sliceRows * columns * BITS[source.dtype] / 8;
  const packed = outputs.reduce((n, output) => n + byteLength(output), 0);
  // Double quantization needs every absmax of the weight at once: on the host, and at the end on the device with its codes.
  const { scheme } = fate;
  const nested = "doubleQuant" in scheme && scheme.doubleQuant ? rows * columns / scheme.block : 0;
  const part = packed * sliceRows / rows;
  return {
    // As it was, codes, packed; dequantized to be measured.
    device: bytes + schemeKind(scheme).workBytes(scheme, sliceRows, columns) + part +
      sliceRows * columns * 4 + nested * (4 + 1),
    // Read ahead, on its way; packed.
    host: 2 * bytes + part + nested * 4 + (format.gathers ? packed : 0),
  };
}

/** Windows that walk through the model. */
export interface Walks {
  readonly evaluation?: WindowsRequest;
  readonly calibration?: WindowsRequest;
}

interface Surroundings {
  readonly model: Model | undefined;
  readonly windows: Walks;
  /** Whether the original's hidden states walk along in the calibration. */
  readonly propagate: boolean;
}

/** Plan the memory of a run. */
export function budget(
  blocks: readonly PlannedBlock[],
  { device, format, buffers, ...around }: Surroundings & {
    device: DeviceLimits;
    format: Format;
    /** `TensorSource.bufferBytes` */
    buffers: number;
  },
): MemoryPlan {
  const { model, windows: { evaluation, calibration: calibrated } } = around;
  const base = BASE[device.name] + READ_AHEAD_BYTES + WRITE_BEHIND_BYTES + buffers;
  const slices = blocks.flatMap(({ steps }) => steps)
    .reduce((most, step) => larger(most, sliceMemory(step, format)), NOTHING);
  const slice = Math.ceil(bytesOf(slices));
  if (!model || !(evaluation || calibrated)) {
    const nothing = { weights: 0, calibration: 0, states: 0, activations: 0 };
    const device = Math.ceil(slices.device) + SMALL_BYTES;
    return { base, slice, ...nothing, peak: base + slice, device };
  }
  const tokens = evaluation?.seqLen ?? 0;
  let weights = NOTHING;
  let scratch = 0;
  for (const { name, steps } of blocks) {
    if (name === "embedding" || !evaluation) continue;
    let [device, host] = [0, 0];
    for (const { source, fate, outputs } of steps) {
      device += byteLength(source);
      if (fate.kind !== "quantize") continue;
      const shape = matrixShape(source.shape);
      const packed = outputs.reduce((n, output) => n + byteLength(output), 0);
      host += packed;
      device += schemeKind(fate.scheme).codeBytes(fate.scheme, ...shape);
      // Packed, it is on the device before any product is computed; columns that are taken out on
      // the host are packed as rows there.
      const taken = format.gathers ? 2 * packed : packed;
      const product = schemeKind(fate.scheme).linearBytes(fate.scheme, shape, tokens);
      scratch = Math.max(scratch, product, taken);
    }
    weights = larger(weights, { device, host });
  }
  const calibration = calibrated ? calibrationMemory(blocks, model, around) : NOTHING;
  const window = (calibrated?.seqLen ?? 0) * statesPerToken(model, around) * 4;
  const states = statesInMemory(model, around) + 2 * tokens * model.hiddenSize * 4 + window;
  const { vocabSize, hiddenSize } = model;
  const logits = 2 * Math.min(LOGIT_BYTES, tokens * vocabSize * 4) +
    2 * Math.min(TABLE_BYTES, vocabSize * hiddenSize * 4);
  const activations = evaluation
    ? Math.max(tokens * activationsPerToken(model) * 4 + scratch, logits)
    : 0;
  const walking = { ...weights, device: weights.device + activations };
  const most = larger(larger(slices, walking), calibration);
  return {
    base,
    slice,
    weights: bytesOf(weights),
    calibration: bytesOf(calibration),
    states,
    activations,
    peak: base + Math.ceil(bytesOf(most)) + states,
    device: Math.ceil(most.device) + states + SMALL_BYTES,
  };
}

/**
 * Floats per token that a window has on the device at once in some step: the residual stream as it
 * came to the block and as it is now, the step's outputs, and its input or what is made of the
 * outputs.
 */
export function activationsPerToken({ hiddenSize, blocks, shapes }: Model): number {
  return blocks.flatMap(({ steps }) => steps).reduce((most, { channels, linears }, i, steps) => {
    const next = steps[i + 1]?.stored ? steps[i + 1]!.channels : 0;
    const outputs = linears.reduce((sum, { weight }) => sum + shapes.get(weight)![0]!, 0);
    return Math.max(most, 2 * hiddenSize + Math.max(channels, next) + outputs);
  }, hiddenSize);
}

/** What calibrating the largest block holds at once, hidden states apart. */
function calibrationMemory(
  blocks: readonly PlannedBlock[],
  model: Model,
  { windows: { calibration }, propagate }: Surroundings,
): Held {
  const { seqLen: tokens, windows } = calibration!;
  const planned = new Map(
    blocks.flatMap(({ steps }) => steps).map((step) => [step.source.name, step]),
  );
  return model.blocks.reduce(
    (most, block) => larger(most, blockMemory(block, { planned, tokens, windows, propagate })),
    NOTHING,
  );
}

/** What the memory of a block under calibration depends on. */
interface BlockSurroundings {
  readonly planned: ReadonlyMap<string, Step>;
  /** Of one window. */
  readonly tokens: number;
  readonly windows: number;
  readonly propagate: boolean;
}

function blockMemory(
  { linears, steps }: Block,
  how: BlockSurroundings,
): Held {
  const { planned } = how;
  // Weights as they were, and their codes until the block is packed; packed, they are on the host twice.
  let [device, host] = [0, 0];
  for (const { weight } of linears) {
    const { source, fate, outputs } = planned.get(weight)!;
    device += byteLength(source);
    if (fate.kind !== "quantize") continue;
    device += schemeKind(fate.scheme).codeBytes(fate.scheme, ...matrixShape(source.shape));
    host += 2 * outputs.reduce((n, output) => n + byteLength(output), 0);
  }
  return { device: device + Math.max(...steps.map((step) => stepMemory(step, how))), host };
}

/**
 * Slices of a weight, f32, that rounding holds at once: the target and its move, scaled, reordered, errors, values; or while the scale of whole rows is
 * refitted, the target, scaled, without dead channels, values, errors, and three products.
 */
const SLICE_COPIES = 8;

function stepMemory(
  { channels, linears, joins }: BlockStep,
  { planned, tokens, windows, propagate }: BlockSurroundings,
): number {
  const weights = linears.map(({ weight }) => planned.get(weight)!);
  const rows = weights.map(({ source }) => matrixShape(source.shape)[0]);
  const passing = tokens * 4 * (2 * channels + rows.reduce((sum, count) => sum + count, 0)) +
    Math.max(
      0,
      ...weights.map(({ source, fate }) =>
        fate.kind === "quantize"
          ? schemeKind(fate.scheme).linearBytes(fate.scheme, matrixShape(source.shape), tokens)
          : 0
      ),
    );
  const calibrated = weights.flatMap(({ fate, sliceRows }) =>
    fate.kind === "quantize" && isCalibrated(fate) ? [{ fate, sliceRows }] : []
  );
  if (calibrated.length === 0) return passing;
  const observers = new Set(calibrated.flatMap(({ fate: { scheme, chain, rule: { options } } }) => {
    const fixing = inputObserver(scheme, options);
    return [...observersOf({ scheme, chain, options }), ...(fixing ? [fixing] : [])];
  }));
  const moving = propagate && observers.has(gram);
  const statistics =
    [...observers].reduce((n, { bytes }) => n + bytes(channels, tokens * windows), 0) +
    (moving ? propagationBytes(channels, joins ? rows[0] : undefined) + tokens * channels * 4 : 0);
  const slices = calibrated.map(({ sliceRows }) => SLICE_COPIES * sliceRows * channels * 4);
  const searching = calibrated.flatMap(({ fate: { chain, rule: { options } } }) =>
    chain.scaling.map(({ workBytes }) => workBytes?.(channels, options) ?? 0)
  );
  // The factor that targets are moved with, and that of the rounding.
  const factors = observers.has(gram) ? (moving ? 2 : 1) * factorBytes(channels) : 0;
  return statistics + Math.max(passing, factors + Math.max(...slices, ...searching));
}

/** Bytes of hidden states kept in memory. */
function statesInMemory(model: Model, around: Surroundings): number {
  const { evaluation, calibration } = around.windows;
  const all = walkBytes(model, around);
  return Math.min(evaluation?.stateBudget ?? 0, all.evaluation) +
    Math.min(calibration?.stateBudget ?? 0, all.calibration);
}

/** Bytes of all hidden states as f32. */
function walkBytes(
  model: Model,
  { windows: { evaluation, calibration }, propagate }: Surroundings,
): { readonly evaluation: number; readonly calibration: number } {
  const tokens = (walk: WindowsRequest | undefined) => walk ? walk.windows * walk.seqLen : 0;
  return {
    evaluation: 2 * tokens(evaluation) * model.hiddenSize * 4,
    calibration: tokens(calibration) * statesPerToken(model, { propagate }) * 4,
  };
}

/** Bytes a run may use; what is absent is unlimited. */
export interface Budgets {
  /** Of the process: `MemoryPlan.peak`. */
  readonly ram?: number | undefined;
  /** Of a GPU: the peak without the runtime. */
  readonly vram?: number | undefined;
  /** Of temporary files: hidden states, and staged shards of a Hub repository. The output is not counted. */
  readonly disk?: number | undefined;
}

/** Bytes of hidden states that go to disk at once: those of the evaluation as f32, those of the calibration as bf16. */
export function spilledBytes(
  model: Model | undefined,
  windows: Walks,
  { propagate }: { readonly propagate: boolean },
): number {
  if (!model) return 0;
  const spilled = (walk: WindowsRequest | undefined, perWindow: number) => {
    if (!walk) return 0;
    const kept = Math.min(walk.windows, Math.floor(walk.stateBudget / perWindow));
    return (walk.windows - kept) * perWindow;
  };
  const { evaluation, calibration } = windows;
  const all = walkBytes(model, { model, windows, propagate });
  return spilled(evaluation, all.evaluation / (evaluation?.windows ?? 1)) +
    spilled(calibration, all.calibration / (calibration?.windows ?? 1)) / 2;
}

/** Slices are not made smaller than this to keep a budget: below it, every other cost is larger. */
const SMALLEST_SLICE = 64 * 2 ** 10;

/** What {@linkcode fit} may choose. */
export interface Choice {
  readonly sliceBytes: number;
  readonly windows: Walks;
}

/**
 * Find hidden states' memory and a slice size with which a run keeps its budgets and fits on its
 * device: first hidden states go to disk, then slices shrink.
 *
 * @throws {UnsupportedError} none does; the sentence has the number that would.
 */
export function fit<T extends { readonly memory: MemoryPlan }>(
  make: (choice: Choice) => T,
  { device, budgets, ...around }: Surroundings & {
    device: DeviceLimits;
    budgets: Budgets;
  },
): T {
  const { model, windows } = around;
  if (budgets.vram !== undefined && device.name !== "webgpu") {
    refuse(
      "budgets.vram",
      `the device is ${device.name}, which has no memory of its own; use \`budgets.ram\``,
    );
  }
  let choice: Choice = { sliceBytes: device.sliceBytes, windows };
  for (;;) {
    const made = make(choice);
    const { base, peak } = made.memory;
    const overDevice = made.memory.device - (device.memoryBytes ?? Infinity);
    const over = Math.max(
      peak - (budgets.ram ?? Infinity),
      peak - base - (budgets.vram ?? Infinity),
      overDevice,
    );
    if (over <= 0) {
      const spilled = spilledBytes(model, choice.windows, around);
      if (spilled <= (budgets.disk ?? Infinity)) return made;
      refuse(
        "budgets.disk",
        `${size(spilled)} of hidden states must go to disk. Give \`budgets.disk\` ${
          sizeToGive(spilled)
        }, more memory, or fewer \`numSamples\``,
      );
    }
    const fewer = model && fewerStates(over, model, { ...around, windows: choice.windows });
    if (fewer) {
      choice = { ...choice, windows: fewer };
    } else if (choice.sliceBytes > SMALLEST_SLICE) {
      choice = { ...choice, sliceBytes: choice.sliceBytes / 2 };
    } else if (overDevice > 0) {
      refuseDevice(device, made.memory);
    } else {
      const [option, least] = peak > (budgets.ram ?? Infinity)
        ? ["budgets.ram", peak]
        : ["budgets.vram", peak - base];
      refuse(
        option,
        `this run needs at least ${size(least)}. Give \`${option}\` ${sizeToGive(least)}${
          windows.evaluation ? ", a shorter `seqLen`, or leave out `evaluation`" : ""
        }`,
      );
    }
  }
}

/** The same walks with `over` bytes less for hidden states; undefined when none are left in memory. */
function fewerStates(over: number, model: Model, around: Surroundings): Walks | undefined {
  const all = walkBytes(model, around);
  for (const walk of ["evaluation", "calibration"] as const) {
    const asked = around.windows[walk];
    const held = asked && Math.min(asked.stateBudget, all[walk]);
    if (!asked || !held) continue;
    const stateBudget = Math.max(0, held - over);
    return { ...around.windows, [walk]: { ...asked, stateBudget } };
  }
  return undefined;
}

/** @throws {UnsupportedError} always: a device cannot hold what must be on it at once. */
function refuseDevice(
  { name, memoryBytes }: Pick<DeviceLimits, "name" | "memoryBytes">,
  { device, slice, weights, activations, calibration }: MemoryPlan,
): never {
  const most = Math.max(slice, weights + activations, calibration);
  const [doing, advice] = most === calibration
    ? ["while a block is calibrated", "a `method` that needs no calibration (rtn or hqq)"]
    : most === slice
    ? ["while a weight is quantized", "a scale per group or channel"]
    : ["while a block is evaluated", "a shorter `seqLen`, or leave out `evaluation`"];
  const other = name === "webgpu" ? "" : "a GPU (`device` webgpu), or ";
  const reason = `at least ${size(device)} must be on it at once, ${doing}, and it holds ${
    size(memoryBytes!)
  }`;
  throw new UnsupportedError(`Cannot do this on ${name}: ${reason}. Use ${other}${advice}.`, {
    what: name,
    reason,
  });
}

function refuse(option: string, reason: string): never {
  throw new UnsupportedError(`Cannot keep to \`${option}\`: ${reason}.`, { what: option, reason });
}
