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
  /** Linears with one tap read the same input. */
  readonly tap: string;
  /** Linears with one label are fused by inference engines and must share a scheme. */
  readonly fused: string | undefined;
}

/** A part of a model that is loaded, quantized and run as one. */
export interface Block {
  /** `model.layers.3` */
  readonly name: string;
  readonly linears: readonly Linear[];
  /** Tensors it needs that are not linear weights or biases: norms. */
  readonly others: readonly string[];
}

/** What a forward pass may use. A stream of hidden states (original or quantized) gives its own. */
export interface Forward {
  readonly scope: Scope;
  /** y f32[T, R] in `scope` of `linear` (bias included) for x f32[T, C], as this stream's runtime would compute it. */
  linear(linear: Linear, x: Tensor): Tensor;
  /** A tensor of the block that is no linear weight, on the device. */
  weight(name: string): Tensor;
  /** Rotary tables, made once per run from `Model.rotary`: f32[T, head_dim/2] each. */
  readonly cos: Tensor;
  readonly sin: Tensor;
}

/** A configured model of a family. */
export interface Model {
  readonly modelType: string;
  readonly hiddenSize: number;
  readonly vocabSize: number;
  /** Longest window the model was made for (`max_position_embeddings`). */
  readonly maxPositions: number;
  /** Floats per token in the widest activation, for the memory plan. */
  readonly widestActivation: number;
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
  /** One window through one block: x f32[T, C] in, a new f32[T, C] in `forward.scope` out. */
  forward(block: Block, x: Tensor, forward: Forward): Tensor;
  /** The final norm: x f32[T, C] → f32[T, C]. */
  finish(x: Tensor, forward: Pick<Forward, "scope" | "weight">): Tensor;
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
