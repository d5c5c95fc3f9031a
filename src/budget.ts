/** The peak memory of a run, from the plan: what each phase holds at once, and the largest of them. Bytes throughout. */
import { UnsupportedError } from "./errors.ts";
import type { DeviceLimits, EvaluationRequest, PlannedBlock, Step } from "./plan.ts";
import type { Model } from "./family.ts";
import type { Format } from "./format.ts";
import { schemeKind } from "./schemes/mod.ts";
import { BITS, byteLength, matrixShape } from "./tensor.ts";

/** Where the memory of a run goes. */
export interface MemoryPlan {
  /** The runtime, the compiled program and the device's own needs; measured, not computed. */
  readonly base: number;
  /** The largest tensor slice on its way: read ahead, on the device, quantized, packed. */
  readonly slice: number;
  /** The block under evaluation: its weights in both streams, and its packed bytes. */
  readonly weights: number;
  /** Hidden states of all windows in both streams, up to the budget. */
  readonly states: number;
  /** One window's activations and one chunk of logits. */
  readonly activations: number;
  /** The most that is held at once. */
  readonly peak: number;
}

/**
 * Resident bytes beside what is counted here: runtime and program 75 MB, compiled kernels and buffers that wait for the garbage
 * collector 70 MB, a Vulkan driver that was asked for its adapters 90 MB. Measured on Linux with Deno 2.9.
 */
const BASE = { wasm: 240e6, webgpu: 300e6, reference: 240e6 } as const;

/** Bytes of logits of one stream held at once. */
export const LOGIT_BYTES = 64 * 2 ** 20;

/** Bytes of the embedding table, or of the output head, that are on the device at once, counted as f32. */
export const TABLE_BYTES = 64 * 2 ** 20;

/** Bytes of slices that are read ahead of the computation; one slice at least. */
export const READ_AHEAD_BYTES = 8 * 2 ** 20;

/** Bytes of packed slices that are still being written while the computation goes on. */
export const WRITE_BEHIND_BYTES = 32 * 2 ** 20;

/** Copied tensors are read in pieces of this size. */
export const COPY_BYTES = 8 * 2 ** 20;

function sliceMemory({ source, fate, outputs, sliceRows }: Step, format: Format): number {
  if (fate.kind === "drop") return 0;
  if (fate.kind === "copy") return 2 * Math.min(COPY_BYTES, byteLength(source));
  const [rows, columns] = matrixShape(source.shape);
  const bytes = sliceRows * columns * BITS[source.dtype] / 8;
  const packed = outputs.reduce((n, output) => n + byteLength(output), 0);
  // Double quantization needs every absmax of the weight at once: on the host, and at the end on the device with its codes.
  const { scheme } = fate;
  const nested = "doubleQuant" in scheme && scheme.doubleQuant
    ? rows * columns / scheme.block * (4 + 4 + 1)
    : 0;
  const gathered = format.gathers ? packed : 0;
  // Read ahead, being quantized, on the device; then codes on the device and packed on the host, dequantized to be measured.
  return 3 * bytes + schemeKind(fate.scheme).workBytes(fate.scheme, sliceRows, columns) +
    2 * packed * sliceRows / rows + sliceRows * columns * 4 + nested + gathered;
}

/** Plan the memory of a run. */
export function budget(
  blocks: readonly PlannedBlock[],
  { device, format, model, evaluation, buffers }: {
    device: DeviceLimits;
    format: Format;
    model: Model | undefined;
    evaluation: EvaluationRequest | undefined;
    /** `TensorSource.bufferBytes` */
    buffers: number;
  },
): MemoryPlan {
  const base = BASE[device.name] + READ_AHEAD_BYTES + WRITE_BEHIND_BYTES + buffers;
  const slice = blocks.flatMap(({ steps }) => steps)
    .reduce((most, step) => Math.max(most, Math.ceil(sliceMemory(step, format))), 0);
  if (!model || !evaluation) {
    return { base, slice, weights: 0, states: 0, activations: 0, peak: base + slice };
  }
  const tokens = evaluation.seqLen;
  let weights = 0;
  let scratch = 0;
  for (const { name, steps } of blocks) {
    if (name === "embedding") continue;
    let held = 0;
    for (const { source, fate, outputs } of steps) {
      held += byteLength(source);
      if (fate.kind !== "quantize") continue;
      const shape = matrixShape(source.shape);
      const packed = outputs.reduce((n, output) => n + byteLength(output), 0);
      held += packed;
      held += schemeKind(fate.scheme).workBytes(fate.scheme, ...shape);
      // Columns are taken out on the host and packed as rows on the device, before any product is computed.
      const taken = format.gathers ? 2 * packed : 0;
      const product = schemeKind(fate.scheme).linearBytes(fate.scheme, shape, tokens);
      scratch = Math.max(scratch, product, taken);
    }
    weights = Math.max(weights, held);
  }
  const window = tokens * model.hiddenSize * 4;
  const states = Math.min(evaluation.stateBudget, 2 * evaluation.windows * window) + 2 * window;
  const { vocabSize, hiddenSize } = model;
  const logits = 2 * Math.min(LOGIT_BYTES, tokens * vocabSize * 4) +
    2 * Math.min(TABLE_BYTES, vocabSize * hiddenSize * 4);
  const activations = Math.max(tokens * model.widestActivation * 4 + scratch, logits);
  const peak = base + Math.max(slice, weights + activations) + states;
  return { base, slice, weights, states, activations, peak };
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

/** Bytes of hidden states that go to disk at once. */
export function spilledBytes(
  model: Model | undefined,
  evaluation: EvaluationRequest | undefined,
): number {
  if (!model || !evaluation) return 0;
  const { windows, seqLen, stateBudget } = evaluation;
  const window = seqLen * model.hiddenSize * 4;
  // Each stream keeps whole windows within its half of the budget.
  const kept = Math.min(windows, Math.floor(stateBudget / 2 / window));
  return 2 * (windows - kept) * window;
}

/** Slices are not made smaller than this to keep a budget: below it, every other cost is larger. */
const SMALLEST_SLICE = 64 * 2 ** 10;

/** What {@linkcode fit} may choose. */
export interface Choice {
  readonly sliceBytes: number;
  readonly evaluation: EvaluationRequest | undefined;
}

/**
 * Find hidden states' memory and a slice size with which a run keeps its budgets: first hidden states go to disk, then slices shrink.
 *
 * @throws {UnsupportedError} none does; the sentence has the number that would.
 */
export function fit<T extends { readonly memory: MemoryPlan }>(
  make: (choice: Choice) => T,
  { device, model, evaluation, budgets }: {
    device: DeviceLimits;
    model: Model | undefined;
    evaluation: EvaluationRequest | undefined;
    budgets: Budgets;
  },
): T {
  if (budgets.vram !== undefined && device.name !== "webgpu") {
    refuse(
      "--max-vram",
      `the device is ${device.name}, which has no memory of its own; use --max-ram`,
    );
  }
  let choice: Choice = { sliceBytes: device.sliceBytes, evaluation };
  for (;;) {
    const made = make(choice);
    const { base, peak } = made.memory;
    const over = Math.max(
      peak - (budgets.ram ?? Infinity),
      peak - base - (budgets.vram ?? Infinity),
    );
    if (over <= 0) {
      const spilled = spilledBytes(model, choice.evaluation);
      if (spilled <= (budgets.disk ?? Infinity)) return made;
      refuse(
        "--max-disk",
        `${spilled} bytes of hidden states must go to disk. Give --max-disk ${spilled}, ` +
          `more memory, or fewer --num-samples`,
      );
    }
    const held = choice.evaluation && Math.min(choice.evaluation.stateBudget, made.memory.states);
    if (choice.evaluation && held) {
      choice = {
        ...choice,
        evaluation: { ...choice.evaluation, stateBudget: Math.max(0, held - over) },
      };
    } else if (choice.sliceBytes > SMALLEST_SLICE) {
      choice = { ...choice, sliceBytes: choice.sliceBytes / 2 };
    } else {
      const [flag, least] = peak > (budgets.ram ?? Infinity)
        ? ["--max-ram", peak]
        : ["--max-vram", peak - base];
      refuse(
        flag,
        `this run needs at least ${least} bytes. Give ${flag} ${least}${
          evaluation ? ", a shorter --seq-len, or leave out --evaluate" : ""
        }`,
      );
    }
  }
}

function refuse(flag: string, reason: string): never {
  throw new UnsupportedError(`Cannot keep to ${flag}: ${reason}.`, { what: flag, reason });
}
