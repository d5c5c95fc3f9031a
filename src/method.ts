/**
 * A method decides what a weight becomes. Some choose codes for a scheme (rounding methods: RTN,
 * GPTQ, HQQ), some move scales between a weight and what makes its input before codes are chosen
 * (smoothing methods: AWQ, SmoothQuant), some train codes and scales by what comes out of the block
 * (tuning methods). A recipe names a list of them: those that smooth, one that rounds, one that
 * tunes.
 * They read weights and statistics; they do no I/O and know no format. Implementations: methods/.
 */
import type { Backend, Scope, Tensor } from "./backend.ts";
import type { Observer, Statistics } from "./observer.ts";
import type { Option, OptionValues } from "./option.ts";
import type { Reporter } from "./report.ts";
import type { Quantized, Scheme } from "./scheme.ts";
import type { Shape } from "./tensor.ts";

interface MethodBase {
  readonly name: string;
  /** Rows that become flags, help and recipe keys. */
  readonly options: readonly Option[];
  /** Statistics of a linear's input that it must have seen; none for a data-free method. */
  needs(scheme: Scheme, options: OptionValues): readonly Observer[];
  /** Whether it can do its part for this scheme, with these options. */
  supports(scheme: Scheme, options: OptionValues): true | string;
}

/** A weight, or one slice of its rows, already on the device. */
export interface Job {
  /** f32|bf16|f16[R, C]; f32 for methods that need statistics, and where there are scales. */
  readonly weight: Tensor;
  /**
   * What the columns are multiplied by before they are rounded, as the channels of their input will
   * be divided by it: f32[C] for each of as many equal parts of the rows; absent: not at all. Codes
   * are those of the weight multiplied.
   */
  readonly scales?: readonly Float32Array[] | undefined;
  /** The result's tensors are allocated here. */
  readonly scope: Scope;
}

/** What rounding weights of one step takes. */
export interface RoundingRequest {
  /** The linears, for messages. */
  readonly names: readonly string[];
  readonly scheme: Scheme;
  readonly options: OptionValues;
  /**
   * Of the input of the linears, as it was before any smoothing; absent for methods that need none.
   */
  readonly statistics?: Statistics;
  /** What the rounder keeps on the device belongs to it. */
  readonly scope: Scope;
  readonly report: Reporter;
  /** Ends what takes long, the rounding too, when it is aborted. */
  readonly signal?: AbortSignal | undefined;
}

/** What became of a slice. */
export interface Rounded {
  readonly quantized: Quantized;
  /** f32[R]: GPTQ's loss of each row, Σ e²/2; of methods that have one. */
  readonly loss?: Tensor;
}

/** Chooses codes for weights that read one input. */
export interface Rounder {
  round(job: Job): Promise<Rounded> | Rounded;
  /** What the report says of it: damping that was used, why another method did the work. */
  readonly remarks: RoundingRemarks;
}

/** See {@linkcode Rounder.remarks}. */
export interface RoundingRemarks {
  /** λ as a share of the Gram matrix's diagonal. */
  readonly damping?: number;
  /**
   * f32[1, C] on the device: 1/U_ii² by column, for errors of the weight without scales, from which
   * the loss can be told before.
   */
  readonly importance?: Tensor;
  /** Why weights were rounded to nearest instead. */
  readonly fallback?: string;
}

/** Chooses codes. */
export interface RoundingMethod extends MethodBase {
  readonly kind: "rounding";
  /** Whether codes make up for each other's errors, so that they are not the nearest. */
  readonly compensates?: true;
  /** Prepare to round the weights of linears that read one input. */
  open(request: RoundingRequest): Promise<Rounder> | Rounder;
}

/** One linear that a smoothing method may look at. */
export interface SmoothableWeight {
  readonly name: string;
  /** R */
  readonly rows: number;
  readonly scheme: Scheme;
  /** Rows of the weight that will be rounded, f32[ids.length, C] in `scope`. */
  take(ids: Uint32Array<ArrayBuffer>, scope: Scope): Promise<Tensor> | Tensor;
  /** Of weights that are rounded alike, one of them. */
  readonly alike: unknown;
  /**
   * The rounding that will follow, of this weight and of those rounded alike. It holds until that
   * of others is asked for.
   */
  rounder(): Promise<Rounder>;
}

/** What finding scales takes. */
export interface SmoothingRequest {
  readonly weights: readonly SmoothableWeight[];
  readonly options: OptionValues;
  readonly statistics: Statistics;
  readonly backend: Backend;
  /** Channels with one number must share a scale; absent: none must. */
  readonly shared?: Uint32Array | undefined;
  readonly report: Reporter;
  /** Ends what takes long when it is aborted. */
  readonly signal?: AbortSignal | undefined;
}

/** What a smoothing method found. */
export interface SmoothingScales {
  /**
   * By what the channels of the input are to be divided, and the weights multiplied: f32[C], all
   * positive.
   */
  readonly scales: Float32Array<ArrayBuffer>;
  /** The exponent or strength that was chosen. */
  readonly strength: number;
}

/** Moves scales. */
export interface SmoothingMethod extends MethodBase {
  readonly kind: "smoothing";
  /** Which channels it scales: those after norms, or also those that a linear makes. */
  readonly after: "norms" | "norms and linears";
  /**
   * Bytes of device memory that finding scales for inputs of this many channels takes for weights
   * of so many rows that read them, statistics apart; absent: as many as rounding takes.
   */
  workBytes?(
    weights: readonly number[],
    channels: number,
    how: { readonly options: OptionValues; readonly device: Pick<Backend, "busyRows"> },
  ): number;
  /** The best scales; undefined when none are better than all ones. */
  smooth(request: SmoothingRequest): Promise<SmoothingScales | undefined>;
}

/** How a block is trained. */
export interface TuningSchedule {
  readonly iterations: number;
  /** Windows of one iteration. */
  readonly batch: number;
  readonly rates: TrainingRates;
  /** What gradients by weights are kept in, while those of windows are added up. */
  readonly gradients: "f32" | "bf16";
  /**
   * Of so many blocks, the last ones, the loss is the divergence of the model's predictions from
   * the original's, with the blocks after them as they were; of others the squared error of their
   * output.
   */
  readonly klBlocks: number;
}

/** How far the first step goes; steps shrink evenly to 0. */
export interface TrainingRates {
  /** In codes. */
  readonly codes: number;
  /** As a share of the scale. */
  readonly scales: number;
}

/** How weights are trained, as a recipe has it. */
export interface TrainingManner {
  readonly options: OptionValues;
  /** See {@linkcode RoundingMethod.compensates}. */
  readonly compensated: boolean;
}

/** What training a slice of a weight takes. */
export interface TrainingRequest extends TrainingManner {
  /** f32[R, C]: what was rounded. */
  readonly target: Tensor;
  /** What it was rounded to. */
  readonly quantized: Quantized;
  /** What lasts until the block is packed belongs to it. */
  readonly scope: Scope;
}

/**
 * A slice of a weight in training; its `quantized` changes in place. Its rows may be multiplied
 * before steps begin.
 */
export interface Trained {
  readonly quantized: Quantized;
  /**
   * Steps begin; what they take is allocated in `scope`.
   *
   * @param rowFactors What its rows were multiplied by.
   */
  begin(scope: Scope, rowFactors?: Float32Array<ArrayBuffer>): TrainingSteps;
}

/** See {@linkcode Trained.begin}. */
export interface TrainingSteps {
  /**
   * Change codes and scales by the gradient of the loss by the weight's values, f32[R, C], which
   * goes to waste. Squared errors are halved and added up over `tokens` tokens.
   */
  step(gradient: Tensor, rates: TrainingRates, tokens: number): void;
  /** Remember codes and scales of now as the best. */
  keep(): void;
  /** Go back to the best. */
  restore(): void;
}

/** Trains codes and scales of a block's weights by what comes out of the block. */
export interface TuningMethod extends MethodBase {
  readonly kind: "tuning";
  /** @param windows What there is to train on. */
  schedule(manner: TrainingManner, windows: number): TuningSchedule;
  /**
   * Bytes of the device for a weight [R, C]: from when it was rounded until its block is packed,
   * and those that steps take, gradients and windows apart.
   */
  bytes(
    weight: { readonly scheme: Scheme; readonly shape: Shape },
    manner: TrainingManner,
  ): { readonly held: number; readonly steps: number };
  /** Prepare to train what was rounded. */
  open(request: TrainingRequest): Trained;
}

/** A way of quantizing, or a part of one. */
export type Method = RoundingMethod | SmoothingMethod | TuningMethod;
