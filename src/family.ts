/**
 * A family is a model architecture. It turns a `config.json` into a graph: a block is a list of
 * nodes over named states, and what stands around the blocks. It computes nothing and holds no
 * weights; forward/ walks the graph, and taps, residual edges, the order of stages and the pairs
 * between which scales may move are read off it (graph/). Implementations: families/, listed by
 * `model_type` in families/mod.ts.
 *
 * Names of tensors are those of the checkpoint. Dimensions: T tokens, C input channels, R output
 * rows.
 */
import type { Shape } from "./tensor.ts";

/** A state of a block: f32[T, n] under a name that only this block knows. */
export type State = string;

/**
 * Rows of a stored matrix: consecutive; one of every so many; some of each of several runs of
 * `perHead` rows.
 */
export type RowRange =
  | { readonly from: number; readonly to: number }
  | { readonly every: number; readonly from: number }
  | { readonly perHead: number; readonly from: number; readonly to: number };

/** Where a matrix [R, C] lies: a tensor of the checkpoint, or a part of one. */
export interface View {
  /** The tensor's name. */
  readonly of: string;
  /** The tensor is stored [C, R], as GPT-2's Conv1D stores it. */
  readonly transposed?: true;
  /** Which matrix of a stack [E, R, C]. */
  readonly index?: number;
  /** Absent: all of them. */
  readonly rows?: RowRange;
}

/** A linear layer: y = x·Wᵀ + b, f32[T, C] → f32[T, R]. */
export interface Linear {
  readonly at: View;
  /**
   * The tensor that holds its bias, [rows of the stored matrix]; of a part of the matrix the same
   * part.
   */
  readonly bias?: string;
  readonly rows: number;
  readonly columns: number;
  /** Inference engines fuse linears of one label: they must share a scheme. */
  readonly fused?: string;
}

/**
 * Normalization of each row, or of each run of `perHead` columns: x/√(mean x² + eps)·w (rms), or (x
 * − mean)/√(var + eps)·w + b (layer). `plusOne`: what is stored is w − 1.
 */
export interface Norm {
  readonly kind: "rms" | "layer";
  /** The tensor's name; absent: all ones. */
  readonly weight?: string;
  readonly bias?: string;
  readonly plusOne?: true;
  readonly eps: number;
  readonly perHead?: number;
}

/**
 * Positions turned into queries and keys: the first `dims` values of each head, by a table of
 * {@linkcode Model.rotary}.
 */
export interface Rotation {
  readonly table: string;
  /** Which values are turned together: i and i + dims/2, or 2i and 2i + 1. */
  readonly pairs: "halves" | "adjacent";
  readonly dims: number;
}

/** How queries meet keys. */
export interface Attention {
  readonly heads: number;
  readonly keyValueHeads: number;
  /** Values of a head. */
  readonly dim: number;
  readonly scale: number;
  /** Absent: none. */
  readonly rotation?: Rotation;
  /** Token i sees the keys j with i − window < j ≤ i; absent: all j ≤ i. */
  readonly window?: number;
  /** Scores become s·tanh(score/s). */
  readonly softcap?: number;
  /** What is added to the score of each key, by head and position: f32[heads, T] (ALiBi). */
  readonly bias?: (tokens: number) => Float32Array<ArrayBuffer>;
  /** Queries are multiplied by this at each position: f32[T]. */
  readonly temperature?: (tokens: number) => Float32Array<ArrayBuffer>;
}

/** An activation function. */
export type Activation = "silu" | "gelu" | "gelu_tanh" | "relu";

/** One step of a block's computation. A state is written once. */
export type Node =
  | { readonly op: "norm"; readonly from: State; readonly to: State; readonly norm: Norm }
  | {
    /** Linears that read one state, which calibration taps. */
    readonly op: "linears";
    readonly from: State;
    readonly to: Readonly<Record<State, Linear>>;
  }
  | {
    readonly op: "attend";
    readonly q: State;
    readonly k: State;
    readonly v: State;
    readonly to: State;
    readonly attention: Attention;
  }
  | { readonly op: "act"; readonly from: State; readonly to: State; readonly act: Activation }
  | {
    /** act(gate)·up */
    readonly op: "gate";
    readonly gate: State;
    readonly up: State;
    readonly to: State;
    readonly act: Activation;
  }
  | {
    /** Σ times·state: where branches join the residual stream. */
    readonly op: "add";
    readonly to: State;
    readonly terms: readonly { readonly state: State; readonly times?: number }[];
  };

/** A part of a model that is loaded, quantized and run as one. */
export interface Block {
  /** `model.layers.3` */
  readonly name: string;
  readonly input: State;
  readonly output: State;
  /** In an order in which they can be run. */
  readonly nodes: readonly Node[];
}

/**
 * Tables of cosines and sines for windows of so many tokens: float32[length, dims/2] each,
 * row-major.
 */
export type RotaryTables = (
  length: number,
) => { readonly cos: Float32Array<ArrayBuffer>; readonly sin: Float32Array<ArrayBuffer> };

/** What makes the first hidden states of tokens. */
export interface Embedding {
  /** [V, C] */
  readonly table: string;
  /** A row is multiplied by this. */
  readonly times?: number;
  /** [positions, C]: row `offset` + p is added at position p. */
  readonly positions?: { readonly table: string; readonly offset: number };
  readonly norm?: Norm;
}

/** What makes logits of the last hidden states. */
export interface Head {
  readonly linear: Linear;
  readonly times?: number;
  /** Logits become s·tanh(logit/s). */
  readonly softcap?: number;
}

/** A configured model of a family. */
export interface Model {
  readonly modelType: string;
  readonly hiddenSize: number;
  readonly vocabSize: number;
  /** Longest window the model was made for (`max_position_embeddings`). */
  readonly maxPositions: number;
  readonly embedding: Embedding;
  readonly blocks: readonly Block[];
  /** By name. */
  readonly rotary: Readonly<Record<string, RotaryTables>>;
  readonly final?: Norm;
  /**
   * Absent: the checkpoint has none (a classifier, a base model); then the model can be calibrated,
   * and not evaluated.
   */
  readonly head?: Head;
  /**
   * Every tensor the forward pass reads, with the shape it is stored in: what a plan checks the
   * headers against.
   */
  readonly shapes: ReadonlyMap<string, Shape>;
}

/** A model architecture. */
export interface Family {
  /** The values of `model_type` it takes. */
  readonly modelTypes: readonly string[];
  /**
   * Read a `config.json`, checking every value it uses.
   *
   * @param has Whether the checkpoint has a tensor of this name (biases, a separate head, which
   * layout).
   * @throws {UnsupportedError} the config asks for something this family does not compute.
   * @throws {CheckpointError} a value or a tensor is missing, or out of range.
   */
  configure(config: Readonly<Record<string, unknown>>, has: (tensor: string) => boolean): Model;
}

/** Whether the output head is the embedding table. */
export function isTied({ head, embedding }: Pick<Model, "head" | "embedding">): boolean {
  return head?.linear.at.of === embedding.table;
}
