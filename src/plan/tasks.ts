/** What a plan is made of: what becomes of each tensor, and the units in which it is done. */
import type { View } from "../family.ts";
import type { WeightInfo } from "../format.ts";
import type { Chain } from "../methods/mod.ts";
import type { Rule } from "../recipe.ts";
import type { Scheme } from "../scheme.ts";
import type { TensorInfo } from "../tensor.ts";

interface Task {
  /** The tensor's name; of a matrix that is a part of one, the matrix's. */
  readonly name: string;
  /** The tensor in the checkpoint. */
  readonly source: TensorInfo;
  /** The tensors it becomes, exactly. */
  readonly outputs: readonly TensorInfo[];
}

/** A weight whose codes are chosen. */
export interface QuantizeTask extends Task {
  readonly kind: "quantize";
  readonly rule: Rule;
  readonly scheme: Scheme;
  readonly chain: Chain;
  /** How the weight lies in the tensor. */
  readonly at: Omit<View, "rows">;
  /** The weight as a tensor of its own, [R, C] for that of a linear layer. */
  readonly weight: WeightInfo;
  /** Rows of the weight that are quantized at a time; all of them for a small one. */
  readonly sliceRows: number;
  /** A slice may be cut at multiples of this many rows. */
  readonly rowStep: number;
}

/** A tensor that is written as it is, or its values in another dtype. */
export interface CopyTask extends Task {
  readonly kind: "copy";
  readonly reason: string;
  /** The dtype in which it is written. */
  readonly dtype: TensorInfo["dtype"];
}

/** A norm or a bias that is divided by the scales that smoothing moves. */
export interface SmoothTask extends Task {
  readonly kind: "smooth";
  readonly reason: string;
}

/** A tensor that no output has. */
export interface DropTask extends Task {
  readonly kind: "drop";
  readonly reason: string;
}

/** What becomes of one tensor of the checkpoint. */
export type TensorTask = QuantizeTask | CopyTask | SmoothTask | DropTask;

/** A weight to be quantized, before it is known how it is stored and cut. */
export type QuantizeDecision = Omit<QuantizeTask, "outputs" | "sliceRows" | "rowStep">;

/** What becomes of a tensor, before it is known how it is stored. */
export type Decision =
  | QuantizeDecision
  | Omit<CopyTask, "outputs">
  | Omit<SmoothTask, "outputs">
  | Omit<DropTask, "outputs">;

/** By the tensor's name. */
export type Decisions = ReadonlyMap<string, Decision>;

/** Those that choose codes. */
export function toQuantize(decisions: Decisions): QuantizeDecision[] {
  return [...decisions.values()].filter((decision) => decision.kind === "quantize");
}

/** Where windows go through a model: its embedding, or one of its blocks, by number. */
export type Place = "embedding" | number;

/**
 * Tasks that are done together: those of a block of the model, or of what stands around the blocks.
 */
export interface Unit {
  /** `model.layers.3`; `embedding`, `head` or `tensors` for what belongs to no block. */
  readonly name: string;
  /** What windows go through once it is done; undefined: nothing. */
  readonly place: Place | undefined;
  readonly tasks: readonly TensorTask[];
}

/** Whether a unit is a block of the model. */
export function isBlock({ place }: Pick<Unit, "place">): boolean {
  return typeof place === "number";
}

/** The tasks of some units that choose codes. */
export function quantizeTasks(units: readonly Unit[]): QuantizeTask[] {
  return units.flatMap(({ tasks }) => tasks).filter((task) => task.kind === "quantize");
}
