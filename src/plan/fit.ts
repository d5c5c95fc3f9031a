/**
 * How a run keeps its budgets and fits on its device: fewer windows walk together, more matrices
 * lie outside of its own memory, hidden states go to disk, slices shrink, and matrices go to disk,
 * which may leave room for all the others again.
 * Refuses what cannot be done.
 */
import type { DeviceLimits, MatrixPlaces } from "../backend.ts";
import { UnsupportedError } from "../errors.ts";
import type { Model } from "../family.ts";
import { stateWidths, type Streams } from "../graph/stops.ts";
import { STREAM_ERROR_BYTES } from "../limits.ts";
import { size, sizeToGive } from "../size.ts";
import { type Surroundings, walkBytes } from "./memory.ts";
import type { MemoryPlan } from "./planned.ts";
import { spilledTokens, stackTokens } from "./stacks.ts";
import type { Walks, WindowsRequest } from "./planned.ts";

/** Bytes a run may use; what is absent is unlimited. */
export interface Budgets {
  /** Of the process: `MemoryPlan.peak`. */
  readonly ram?: number | undefined;
  /** Of a GPU: `MemoryPlan.device`. */
  readonly vram?: number | undefined;
  /**
   * Of temporary files: hidden states, matrices, staged shards of a Hub repository, and the carry
   * of a run that is to go on after a stop. The output is not counted.
   */
  readonly disk?: number | undefined;
}

/**
 * Bytes of hidden states that go to disk at once: those of the evaluation as f32, those of the
 * calibration as bf16, of two stops while windows go from one to the next.
 */
export function spilledBytes(
  model: Model | undefined,
  { evaluation, calibration }: Walks,
  { device, ...streams }: Streams & { readonly device: DeviceLimits },
): number {
  if (!model) return 0;
  const widths = stateWidths(model, streams);
  const both = 2 * model.hiddenSize;
  const spilled = (walk: WindowsRequest | undefined, perToken: number) =>
    walk ? spilledTokens(walk, perToken, { model, device }) : 0;
  return spilled(evaluation, both) * both * 4 +
    spilled(calibration, widths.kept) * widths.between * 2;
}

/**
 * Bytes on disk of what passes from unit to unit, twice, because the next is written before the
 * last is removed: hidden states of both streams of the evaluation and how far they were apart, and
 * the inputs of a block in the streams of the calibration.
 */
export function carryBytes(
  model: Model | undefined,
  { evaluation, calibration }: Walks,
  { device, ...streams }: Streams & { readonly device: DeviceLimits },
): number {
  if (!model) return 0;
  const { hiddenSize, blocks } = model;
  const tokens = (walk: WindowsRequest | undefined) => walk ? walk.windows * walk.seqLen : 0;
  const measured = tokens(evaluation) * (2 * hiddenSize * 4 + blocks.length * STREAM_ERROR_BYTES);
  const { kept } = stateWidths(model, streams);
  const spilled = calibration ? spilledTokens(calibration, kept, { model, device }) : 0;
  const perStream = (tokens(calibration) * 4 - spilled * 2) * hiddenSize;
  return 2 * (measured + (streams.propagate ? 2 : 1) * perStream);
}

/** Slices are not made smaller than this to keep a budget: below it, every other cost is larger. */
const SMALLEST_SLICE = 64 * 2 ** 10;

/**
 * Smaller matrices are not kept outside or on disk: they are not what there is no room for.
 */
const SMALLEST_ELSEWHERE = 64 * 2 ** 20;
/** Matrices larger than any. */
const LARGEST = 2 ** 34;

/**
 * Times what a slice has usually where matrices lie on disk, all of which are read for every slice.
 */
const DISK_SLICES = 8;

/** What {@linkcode fit} may choose. */
export interface Choice {
  readonly sliceBytes: number;
  readonly windows: Walks;
  /** Where large matrices lie; undefined where they lie as all others do. */
  readonly places: MatrixPlaces | undefined;
}

/**
 * Find places for matrices and hidden states, and a slice size, with which a run keeps its budgets
 * and fits on its device: first fewer windows walk together; then matrices that the device has no
 * room for lie outside; then hidden states go to disk; then slices shrink; then matrices go to
 * disk, largest first, and what else was given up is taken back as far as there is room.
 *
 * @throws {UnsupportedError} none does; the sentence has the number that would.
 */
export function fit<T extends { readonly memory: MemoryPlan }>(
  make: (choice: Choice) => T,
  { device, budgets, resume, ...around }: Surroundings & {
    device: DeviceLimits;
    budgets: Budgets;
    /** Whether the carry lies on disk, too. */
    resume: boolean;
  },
): T {
  const { model, windows } = around;
  if (budgets.vram !== undefined && device.name !== "webgpu") {
    refuse(
      "budgets.vram",
      `the device is ${device.name}, which has no memory of its own; use \`budgets.ram\``,
    );
  }
  const { sliceBytes, matrixPlaces: places } = device;
  let choice: Choice = { sliceBytes, windows, places };
  for (;;) {
    const made = make(choice);
    const { peak, device: vram } = made.memory;
    const overDevice = made.memory.device - (device.memoryBytes ?? Infinity);
    const over = Math.max(
      peak - (budgets.ram ?? Infinity),
      vram - (budgets.vram ?? Infinity),
      overDevice,
    );
    if (over <= 0) {
      const spilled = spilledBytes(model, choice.windows, { ...around, device });
      const { disk: matrices } = made.memory;
      const carry = resume ? carryBytes(model, choice.windows, { ...around, device }) : 0;
      const all = spilled + matrices + carry;
      if (all <= (budgets.disk ?? Infinity)) return made;
      const parts = [
        [spilled, "hidden states"],
        [matrices, "matrices"],
        [carry, "what it takes to go on after a stop"],
      ] as const;
      const what = parts.filter(([bytes]) => bytes > 0)
        .map(([bytes, name]) => `${size(bytes)} of ${name}`).join(" and ");
      const less = carry > 0 ? "`resume` false, " : "";
      refuse(
        "budgets.disk",
        `${what} must go to disk. Give \`budgets.disk\` ${
          sizeToGive(all)
        }, ${less}more memory, or fewer \`numSamples\``,
      );
    }
    const smaller = model && smallerStacks(model, { windows: choice.windows, device });
    if (smaller) {
      choice = { ...choice, windows: smaller };
      continue;
    }
    if (overDevice > 0 && choice.places && choice.places.outsideBytes > SMALLEST_ELSEWHERE) {
      const outsideBytes = choice.places.outsideBytes / 2;
      choice = { ...choice, places: { ...choice.places, outsideBytes } };
      continue;
    }
    const fewer = model && fewerStates(over, model, { ...around, windows: choice.windows });
    if (fewer) {
      choice = { ...choice, windows: fewer };
      continue;
    }
    const more = peak > (budgets.ram ?? Infinity) ? moreOnDisk(choice.places) : undefined;
    // Small slices cost more than matrices on disk once some are there.
    const smallest = more && choice.places?.diskBytes !== undefined ? sliceBytes : SMALLEST_SLICE;
    if (choice.sliceBytes > smallest) {
      choice = { ...choice, sliceBytes: choice.sliceBytes / 2 };
    } else if (more) {
      choice = { sliceBytes: DISK_SLICES * sliceBytes, windows, places: more };
    } else if (overDevice > 0) {
      refuseDevice(device, made.memory);
    } else {
      const [option, least] = peak > (budgets.ram ?? Infinity)
        ? ["budgets.ram", peak]
        : ["budgets.vram", vram];
      refuse(
        option,
        `this run needs at least ${size(least)}. Give \`${option}\` ${sizeToGive(least)}${
          windows.evaluation ? ", a shorter `seqLen`, or leave out `evaluation`" : ""
        }`,
      );
    }
  }
}

/** The same walks with half of the largest stack's tokens; undefined when each is one window. */
function smallerStacks(
  model: Model,
  { windows, device }: { readonly windows: Walks; readonly device: DeviceLimits },
): Walks | undefined {
  let largest: { readonly walk: keyof Walks; readonly tokens: number } | undefined;
  for (const walk of ["evaluation", "calibration"] as const) {
    const asked = windows[walk];
    const tokens = asked ? stackTokens(asked, { model, device }) : 0;
    if (asked && tokens > Math.max(asked.seqLen, largest?.tokens ?? 0)) largest = { walk, tokens };
  }
  if (!largest) return undefined;
  const { walk, tokens } = largest;
  return { ...windows, [walk]: { ...windows[walk]!, stackTokens: tokens / 2 } };
}

/**
 * The same walks with `over` bytes less for hidden states; undefined when none are left in memory.
 */
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

/** Places by which smaller matrices lie on disk too; undefined when none do. */
function moreOnDisk(places: MatrixPlaces | undefined): MatrixPlaces | undefined {
  const diskBytes = (places?.diskBytes ?? LARGEST) / 2;
  return places && diskBytes >= SMALLEST_ELSEWHERE ? { ...places, diskBytes } : undefined;
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
