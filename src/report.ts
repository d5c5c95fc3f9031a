/** What happened, as plain objects in one union. The library reports; cli.ts renders. */
import type { Score } from "./evaluator.ts";

/** How one weight fared. */
export interface TensorReport {
  readonly name: string;
  readonly scheme: string;
  /** Stored bits per weight, scales included. */
  readonly bitsPerWeight: number;
  /** By metric name; empty unless metrics were asked for. */
  readonly metrics: Readonly<Record<string, number>>;
}

/** One thing that happened in a run. */
export type Event =
  | {
    readonly type: "start";
    readonly what: string;
    readonly device: string;
    readonly tensors: number;
    readonly bytes: number;
    /** Window-blocks of the evaluation, if there is one. */
    readonly windows?: number;
  }
  | { readonly type: "quantized"; readonly tensor: TensorReport; readonly bytes: number }
  | { readonly type: "copied"; readonly name: string; readonly bytes: number }
  /** A block's windows are going through: `done` of `total` window-blocks of the whole evaluation. */
  | {
    readonly type: "advanced";
    readonly block: string;
    readonly done: number;
    readonly total: number;
  }
  /** Something a user should know that stops nothing: a smaller slice, a spill to disk, a device that is software. */
  | { readonly type: "warning"; readonly code: string; readonly message: string }
  | { readonly type: "committed"; readonly path: string; readonly bytes: number }
  | { readonly type: "scored"; readonly scores: Readonly<Record<string, Score>> }
  | { readonly type: "finished"; readonly seconds: number; readonly peakBytes: number };

/** Receives events. */
export type Reporter = (event: Event) => void;
