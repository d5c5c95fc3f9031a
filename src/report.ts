/** What happened, as plain objects in one union. The library reports; cli.ts renders. */
import type { Score } from "./evaluator.ts";

/** How one weight fared. */
export interface TensorReport {
  readonly name: string;
  readonly scheme: string;
  /** Stored bits per weight, scales included. */
  readonly bitsPerWeight: number;
  /** How its codes were chosen, `awq+gptq`; absent when only the codes are known. */
  readonly method?: string;
  /** By metric name; empty unless metrics were asked for. */
  readonly metrics: Readonly<Record<string, number>>;
  /** Absent for weights that were quantized without data. */
  readonly calibration?: CalibrationFacts;
}

/** What is known of one weight's calibration. */
export interface CalibrationFacts {
  /** `awq+gptq` */
  readonly method: string;
  /** Tokens seen. */
  readonly tokens: number;
  /** λ as a share of the Gram matrix's diagonal. */
  readonly damping?: number;
  /** The exponent or strength with which scales were moved; absent: none were. */
  readonly strength?: number;
  /**
   * The scale of activations that was fixed; absent: each token has its own, or they are not
   * rounded.
   */
  readonly inputScale?: number;
  /** GPTQ's loss, Σ e²/2 over all rows, per token. */
  readonly loss?: number;
  /**
   * What the loss should be if errors were spread evenly, and what it is at most where nothing is
   * clipped; of int grids, with metrics.
   */
  readonly expectedLoss?: number;
  readonly lossBound?: number;
  /**
   * tr(E·H·Eᵀ) / tr(W·H·Wᵀ): the share of the output, squared, that is error; with metrics, where
   * the Gram matrix H was gathered.
   */
  readonly outputError?: number;
  /** Why the weight was rounded to nearest instead. */
  readonly fallback?: string;
  /** How its block was trained; what stands above is as it was before that. */
  readonly tuning?: TuningFacts;
}

/**
 * What training a block has come to: mean squared errors of its output against the original
 * model's, on windows that were not trained on.
 */
export interface TuningFacts {
  readonly iterations: number;
  readonly before: number;
  readonly after: number;
}

/** What can be bounded of a quantized model. */
export type Quantity = "kl_divergence" | "perplexity_increase";

/** A bound, what was measured, and what it is at most. */
export interface Limit {
  readonly quantity: Quantity;
  /** KL divergence in nats per token; perplexity over the original's, less 1. */
  readonly bound: number;
  readonly measured: number;
  /** The upper confidence limit. */
  readonly limit: number;
  /** Whether the limit is below the bound. */
  readonly holds: boolean;
}

/** One thing that happened in a run. */
export type Event = Happening & {
  /** Which output it concerns, where a run makes several. */
  readonly output?: string;
};

type Happening =
  | {
    readonly type: "start";
    readonly what: string;
    readonly device: string;
    readonly tensors: number;
    readonly bytes: number;
    /** Steps of windows, of the evaluation and of the calibration, if there are any. */
    readonly windows?: number;
    /** How often the bytes are quantized, if the run makes several outputs. */
    readonly outputs?: number;
  }
  /**
   * The run goes on after units that an earlier one has done: their number and that of all, and as
   * much of the work as `start` tells of.
   */
  | {
    readonly type: "resumed";
    readonly units: number;
    readonly of: number;
    readonly bytes: number;
    readonly windows: number;
  }
  | { readonly type: "quantized"; readonly tensor: TensorReport; readonly bytes: number }
  | { readonly type: "copied"; readonly name: string; readonly bytes: number }
  /**
   * Windows are going through a block: `done` of `total` steps of windows, of the whole evaluation
   * and calibration.
   */
  | {
    readonly type: "advanced";
    readonly block: string;
    readonly done: number;
    readonly total: number;
  }
  /** Blocks are looked through for scales that a method has moved: `done` of `total`. */
  | {
    readonly type: "examined";
    readonly block: string;
    readonly done: number;
    readonly total: number;
  }
  /**
   * Something a user should know that stops nothing: a smaller slice, a spill to disk, a device
   * that is software.
   */
  | { readonly type: "warning"; readonly code: string; readonly message: string }
  | { readonly type: "committed"; readonly path: string; readonly bytes: number }
  /** The Hub has a file of the output, which others are still made beside. */
  | { readonly type: "uploaded"; readonly path: string; readonly bytes: number }
  /** A search for a recipe has measured one: `number` of at most `of`. */
  | {
    readonly type: "tried";
    readonly number: number;
    readonly of: number;
    readonly method: string;
    readonly bitsPerWeight: number;
    readonly limits: readonly Limit[];
  }
  | { readonly type: "scored"; readonly scores: Readonly<Record<string, Score>> }
  | { readonly type: "finished"; readonly seconds: number; readonly peakBytes: number };

/** What was warned of. */
export type Warning = Pick<Extract<Event, { type: "warning" }>, "code" | "message">;

/** What text windows are of. */
export interface TextFacts {
  /** Its name: `sample`, a dataset, or a file without its folder. */
  readonly corpus: string;
  /** Windows the whole text has. */
  readonly available: number;
  /** What drew the windows; undefined: they are the first of the text. */
  readonly seed?: number | undefined;
  /**
   * SHA-256, in hex, of the windows' tokens one after another, each 32 bits, the low byte first.
   */
  readonly sha256: string;
}

/** Receives events. */
export type Reporter = (event: Event) => void;

/** Counts the steps that windows have gone, of all walks of a run. */
export class StepCounter {
  readonly #report: Reporter;
  #done = 0;
  /** Steps of all windows in all walks; to be known before the first is counted. */
  total = 0;

  constructor(report: Reporter) {
    this.#report = report;
  }

  /** Steps that were counted. */
  get done(): number {
    return this.#done;
  }

  /** Steps that an earlier run has counted. */
  resume(done: number): void {
    this.#done = done;
  }

  /** Some windows have gone one step. */
  count(block: string, windows = 1): void {
    this.#done += windows;
    this.#report({ type: "advanced", block, done: this.#done, total: this.total });
  }
}
