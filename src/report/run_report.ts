/** What a run gives back: data, of which a report is made. */
import type { Score, TokenScores } from "../evaluator.ts";
import type { StreamErrors } from "../forward/stream_error.ts";
import type { Distribution } from "../metrics/distribution.ts";
import type { TensorReport, Warning } from "../report.ts";
import type { PhaseReport, Timeline } from "../trace.ts";
import type { RunRecord } from "./record.ts";

/** What a run did. */
export interface RunReport {
  readonly tensors: readonly TensorReport[];
  /** By evaluator; empty without an evaluation. */
  readonly scores: Readonly<Record<string, Score>>;
  /** What the scores are of; absent without an evaluation. */
  readonly tokens?: TokenScores;
  /** How far the quantized model's residual stream was apart; absent without an evaluation. */
  readonly streamErrors?: StreamErrors;
  readonly seconds: number;
  /** Highest resident size that was sampled, in bytes; 0 when it was not. */
  readonly peakBytes: number;
  /** When bytes came in, the device was busy, and bytes went out. */
  readonly timeline: Timeline;
  /** Where time and memory went. */
  readonly phases: PhaseReport;
  /** By weight; empty unless asked for. */
  readonly distributions: ReadonlyMap<string, Distribution>;
  readonly warnings: readonly Warning[];
  /** What lies beside the weights as `sluice.json`. */
  readonly record: RunRecord;
}
