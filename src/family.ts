/**
 * A family is a model architecture: what its blocks are called, what they read, how they run. It does no I/O and holds no
 * weights; it is given them block by block. Implementations: families/, listed by `config.json`'s `model_type` in families/mod.ts.
 */
import type { Scope, Tensor } from "./backend.ts";
import type { Shape } from "./tensor.ts";

/** A linear layer of a block. */
export interface Linear {
  /** The weight's tensor name, [R, C]. */
  readonly weight: string;
  /** The bias's tensor name, [R], if the model has one. */
  readonly bias: string | undefined;
  /** Linears with one label are fused by inference engines and must share a scheme. */
  readonly fused: string | undefined;
}

/** Where hidden states stand within a block. */
export interface Position {
  /** The residual stream, f32[T, C]. */
  readonly residual: Tensor;
  /** The input of the step's linears where it cannot be had from the residual stream again: f32[T, `Step.channels`]. */
  readonly hidden?: Tensor;
}

/** What the parts of a forward pass may use. */
export interface StepContext {
  /** Where results are allocated. */
  readonly scope: Scope;
  /** A tensor of the block that is no linear weight, on the device. */
  weight(name: string): Tensor;
  /** Rotary tables, made once per run from `Model.rotary`: f32[T, head_dim/2] each. */
  readonly cos: Tensor;
  readonly sin: Tensor;
}

/** What could divide the channels of a step's input, so that its linears may be multiplied by the same scales (SmoothQuant, AWQ). */
export type ScaleSource =
  /** The norm before it: its weight, a factor of each channel. */
  | { readonly kind: "norm"; readonly weight: string }
  /** A linear of an earlier step of the block: row `rows[c]` makes channel c; channels of one row must share a scale. */
  | { readonly kind: "linear"; readonly linear: Linear; readonly rows: Uint32Array };

/**
 * One step of a block: linears that read one input, and what follows them up to the next such input. Calibration stops every window here,
 * and quantizes the linears before it goes on ("true sequential" in GPTQ's code).
 */
export interface Step {
  /** The name of its input. */
  readonly tap: string;
  readonly linears: readonly Linear[];
  /** Channels of the input. */
  readonly channels: number;
  /** Whether it begins with `Position.hidden`; else the input is computed from the residual stream. */
  readonly stored: boolean;
  /** Whether the output of its one linear is added to the residual stream. */
  readonly joins: boolean;
  readonly scaledBy: ScaleSource | undefined;
  /** The input of the linears, f32[T, channels]: of the position, or new in `context.scope`. */
  input(at: Position, context: StepContext): Tensor;
  /** What follows the linears; `outputs` may be changed and become part of the result. */
  next(at: Position, outputs: readonly Tensor[], context: StepContext): Position;
}

/** A part of a model that is loaded, quantized and run as one. */
export interface Block {
  /** `model.layers.3` */
  readonly name: string;
  /** In the order they are run. */
  readonly steps: readonly Step[];
  /** Those of all steps. */
  readonly linears: readonly Linear[];
  /** Tensors it needs that are not linear weights or biases: norms. */
  readonly others: readonly string[];
}

/** What a forward pass may use. A stream of hidden states (original or quantized) gives its own. */
export interface Forward extends StepContext {
  /** y f32[T, R] in `scope` of `linear` (bias included) for x f32[T, C], as this stream's runtime would compute it. */
  linear(linear: Linear, x: Tensor, scope: Scope): Tensor;
}

/** Send a window through one step; what it makes belongs to `forward.scope`. */
export function advance(step: Step, at: Position, forward: Forward): Position {
  using scratch = forward.scope.backend.scope();
  const context = within(forward, scratch);
  const input = step.input(at, context);
  const outputs = step.linears.map((linear) => forward.linear(linear, input, scratch));
  if (input !== at.hidden) scratch.release(input)[Symbol.dispose]();
  return keep(step.next(at, outputs, context), at, { from: scratch, to: forward.scope });
}

/** One window through one block: x f32[T, C] in, a new f32[T, C] in `forward.scope` out. */
export function forwardBlock({ steps }: Block, x: Tensor, forward: Forward): Tensor {
  let at: Position = { residual: x };
  for (const step of steps) {
    const next = advance(step, at, forward);
    for (const tensor of [at.residual, at.hidden]) {
      const used = tensor === x || tensor === next.residual || tensor === next.hidden;
      if (tensor && !used) forward.scope.release(tensor)[Symbol.dispose]();
    }
    at = next;
  }
  return at.residual;
}

/** A context whose results belong to another scope. */
export function within({ weight, cos, sin }: StepContext, scope: Scope): StepContext {
  return { scope, weight, cos, sin };
}

/** Move the tensors of a position that a step made to a scope that lives longer. */
export function keep(
  next: Position,
  before: Position,
  { from, to }: { readonly from: Scope; readonly to: Scope },
): Position {
  for (const tensor of [next.residual, next.hidden]) {
    if (tensor && tensor !== before.residual && tensor !== before.hidden) {
      to.adopt(from.release(tensor));
    }
  }
  return next;
}

/** A configured model of a family. */
export interface Model {
  readonly modelType: string;
  readonly hiddenSize: number;
  readonly vocabSize: number;
  /** Longest window the model was made for (`max_position_embeddings`). */
  readonly maxPositions: number;
  /** Every tensor the forward pass reads, with the shape config.json implies: what a plan checks the headers against. */
  readonly shapes: ReadonlyMap<string, Shape>;
  /** The embedding table, [V, C]. */
  readonly embedding: string;
  /** The final norm's tensors. */
  readonly final: readonly string[];
  /** The output head's weight, [V, C]; equal to `embedding` when tied. */
  readonly head: Linear;
  readonly blocks: readonly Block[];
  /** Rotary cosines and sines for positions 0 … length−1: float32[length, head_dim/2], row-major, attention factor included. */
  rotary(
    length: number,
  ): {
    readonly halfDim: number;
    readonly cos: Float32Array<ArrayBuffer>;
    readonly sin: Float32Array<ArrayBuffer>;
  };
  /** The final norm: x f32[T, C] → f32[T, C]. */
  finish(x: Tensor, forward: Pick<StepContext, "scope" | "weight">): Tensor;
}

/** A model architecture. */
export interface Family {
  readonly name: string;
  /** The values of `model_type` it takes. */
  readonly modelTypes: readonly string[];
  /**
   * Read a `config.json`, checking every value it uses.
   *
   * @param has Whether the checkpoint has a tensor of this name (biases, a separate head).
   * @throws {UnsupportedError} the config asks for something this family does not compute.
   * @throws {CheckpointError} a value is missing or out of range.
   */
  configure(config: Readonly<Record<string, unknown>>, has: (tensor: string) => boolean): Model;
}
