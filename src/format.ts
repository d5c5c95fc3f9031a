/**
 * A format names and packs codes, and says so in config.json. Implementations: formats/, listed in
 * formats/mod.ts.
 */
import type { Scope } from "./backend.ts";
import type { OptionValues } from "./option.ts";
import type { Quantized, ScaleDType, Scheme } from "./scheme.ts";
import type { Rows, TensorSource } from "./source.ts";
import type { TensorInfo } from "./tensor.ts";

/** Bytes of one output tensor, from `offset` of that tensor's data on. */
export interface Piece {
  /** The output tensor's name, one of those `layout` gave. */
  readonly tensor: string;
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** Packs one weight, slice after slice of its rows, in order. */
export interface Packer {
  /**
   * Pack the rows `[rows.from, rows.to)`.
   *
   * @throws {CheckpointError} a scale is not finite: the weight holds NaN or infinity.
   */
  add(quantized: Quantized, rows: Rows): Promise<Piece[]>;
  /**
   * What needs the whole weight: nested statistics, shapes, metadata. Every byte of every output
   * tensor has then been given once.
   */
  finish(): Promise<Piece[]>;
}

/** A weight found in a checkpoint, quantized or not. */
export interface StoredWeight {
  /** The name the weight had before: `model.layers.0.mlp.up_proj.weight`. */
  readonly name: string;
  /** Its shape before. */
  readonly shape: readonly number[];
  readonly scheme: Scheme;
  /** The stored tensors it is made of. */
  readonly parts: readonly TensorInfo[];
  /** Its one part is a matrix [R, C] stored as [C, R]. */
  readonly transposed?: true;
}

/** A weight as it is quantized: [R, C] for that of a linear layer. */
export interface WeightInfo extends TensorInfo {
  /** The checkpoint has it as [C, R], and wherever it is not quantized loaders want it so. */
  readonly transposed?: true;
}

/**
 * Bytes of a stored tensor, or of rows of it. `TensorSource.read` is one; a block's packed pieces
 * in memory are another.
 */
export type ReadTensor = (name: string, rows?: Rows) => Promise<Uint8Array<ArrayBuffer>>;

/** What one weight of a checkpoint will be, or is. */
export interface PlannedWeight {
  readonly name: string;
  readonly shape: readonly number[];
  /** `undefined`: left as it is. */
  readonly scheme: Scheme | undefined;
  /**
   * Whether the weight is that of a linear layer (a skip list must name those that are left alone).
   */
  readonly linear: boolean;
  /**
   * What becomes of rows that are inputs and columns that are outputs, as GPT-2 has them
   * (transformers' Conv1D): they are kept where nobody knows the model, else turned, as the weights
   * of linear layers are. Absent where rows are outputs already.
   */
  readonly inputsFirst?: "kept" | "turned";
  /** How its codes are chosen; absent where that is not known. */
  readonly chosen?: { readonly method: string; readonly options: OptionValues };
}

/** A checkpoint as its section and its loaders see it. */
export interface Content {
  /** The weights of linear layers, and whatever else is quantized; casts have no scheme here. */
  readonly weights: readonly PlannedWeight[];
  /** `config.json`, parsed; empty where there is none. */
  readonly config: Readonly<Record<string, unknown>>;
  /** The dtype of what is not quantized, as `config.json` spells it: `bfloat16`. */
  readonly dtype: string;
  /** What of `config.json` does not fit the tensors; absent where all does. */
  readonly misfit?: string | undefined;
}

/** Whether a program opens a checkpoint, and why, or why not; `unknown` where nobody has tried. */
export interface Verdict {
  readonly name: string;
  readonly opens: "yes" | "no" | "unknown";
  readonly why: string;
}

/** How quantized weights are named and packed in a checkpoint. */
export interface Format {
  readonly name: string;
  /**
   * The value of `quantization_config.quant_method`; `undefined` when the format writes no section.
   */
  readonly quantMethod: string | undefined;
  /**
   * The dtype it stores scales in, whatever the model's; absent: the model's. Scales are rounded to
   * it before codes are chosen, so such a format is used only where it is asked for.
   */
  readonly scaleDType?: ScaleDType;
  /**
   * Whether its loaders want all floats that are not quantized in the dtype that config.json
   * announces.
   */
  readonly castsRest?: boolean;
  /** What it packs is measured and not written; it is used only where it is asked for. */
  readonly unwritten?: true;
  /** A file beside config.json that holds the section alone, for loaders that look for it. */
  readonly sectionFile?: string;
  /**
   * Whether a packer keeps all stored tensors of a weight until the last slice, and `unpack` reads
   * all of them.
   */
  readonly gathers?: boolean;
  /** Whether this format holds this weight in this scheme. */
  supports(scheme: Scheme, weight: WeightInfo): true | string;
  /**
   * Rows of a slice must be a multiple of this for `Packer.add` (bit-packed zero points share words
   * across rows).
   */
  rowStep(scheme: Scheme, weight: TensorInfo): number;
  /** The tensors one weight becomes. Pure; called while planning. Tells the truth to the byte. */
  layout(weight: WeightInfo, scheme: Scheme): TensorInfo[];
  packer(weight: WeightInfo, scheme: Scheme, scope: Scope): Packer;
  /**
   * `config.json`'s `quantization_config`, as JSON text (`6.0` must stay `6.0`), or undefined when
   * there is none.
   *
   * @throws {UnsupportedError} these schemes cannot stand in one section.
   */
  section(content: Content): string | undefined;
  /**
   * The quantized weights of a checkpoint by the names they had before, or undefined when it is not
   * in this format. Reads the few bytes that hold shapes (`weight_shape`, `quant_state`): headers
   * do not tell them.
   *
   * @throws {CheckpointError} a part is missing, or has another dtype or shape than the section
   * says.
   * @throws {UnsupportedError} the section asks for something Sluice does not read.
   */
  recognize(
    source: Pick<TensorSource, "tensors" | "config" | "read">,
  ): Promise<Map<string, StoredWeight> | undefined>;
  /**
   * Bring a stored weight, or rows of it, onto a device; tensors in `scope`. The inverse of
   * packing, values as a loader would see them.
   */
  unpack(
    stored: StoredWeight,
    read: ReadTensor,
    options: { readonly scope: Scope; readonly rows?: Rows },
  ): Promise<Quantized>;
  /** Who opens a checkpoint of this format. */
  loaders(content: Content): Verdict[];
}
