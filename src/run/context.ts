/** The state of a run, and what it was asked to do. */
import type { Backend } from "../backend.ts";
import type { CalibrationInput } from "../calibration/input.ts";
import type { Certificate } from "../report/record.ts";
import type { Distribution } from "../metrics/distribution.ts";
import type { TokenScores } from "../evaluator.ts";
import type { EvaluationInput } from "../forward/streams.ts";
import type { EnergyTable } from "../plan/energy.ts";
import type { Plan } from "../plan/planned.ts";
import type { Event, Reporter, StepCounter, TensorReport, Warning } from "../report.ts";
import type { Sink } from "../sink.ts";
import type { TensorSource } from "../source.ts";
import type { Trace } from "../trace.ts";
import type { Output } from "./output.ts";
import type { ReadAhead } from "./read_ahead.ts";

/** What a run makes one output of, beside its plan. */
export interface OutputOptions {
  /** One with a resumption has the run go on where an earlier one of the same key was stopped. */
  readonly sink: Sink;
  /**
   * What the plan's units came to elsewhere, in their order: nothing is computed, all is put
   * together. The sink must have no resumption.
   */
  readonly units?: AsyncIterable<DoneUnit>;
  /** What the measurement is to certify: the record has it. */
  readonly certify?: (tokens: TokenScores) => Certificate;
  /** The command line that asks for it, as others can repeat it: the record tells it. */
  readonly command?: string;
  /** Hears what concerns this output alone, in place of the run's reporter. */
  readonly report?: Reporter;
}

/** One output of a run that makes several. */
export interface PlannedOutput extends OutputOptions {
  readonly plan: Plan;
}

/** What a run needs beside its plan. */
export interface RunOptions extends SharedOptions, Omit<OutputOptions, "report"> {}

/** What all outputs of a run have in common. */
export interface SharedOptions {
  readonly source: TensorSource;
  readonly backend: Backend;
  /**
   * The share of the run's time that may go into saving what it takes to go on: 0.02 unless given,
   * Infinity to save after every unit.
   */
  readonly saveShare?: number;
  readonly report?: Reporter;
  /**
   * Stops the run between two slices, or where units are finished that can be saved only then, at
   * the end of the unit; nothing is left under the final name.
   */
  readonly signal?: AbortSignal;
  /**
   * Aborted, for others, when the run really stops: what its source is opened with, so that a unit
   * that is to be finished is read to its end.
   */
  readonly halt?: AbortController;
  /**
   * Compute every metric of every quantized weight, and the error of the outputs of those that are
   * calibrated.
   */
  readonly metrics?: boolean;
  /**
   * Keep how the values and codes of every quantized weight are distributed, as a report shows
   * them; only with `metrics`.
   */
  readonly distributions?: boolean;
  /** Measure the model in the same pass; the plan must have been made with the same windows. */
  readonly evaluation?: EvaluationInput;
  /**
   * What to calibrate on; required if the plan has a calibration, and must be of the same windows.
   */
  readonly calibration?: CalibrationInput;
  /** Energies to estimate a token's by, unless those of `HOROWITZ`. */
  readonly energyTable?: EnergyTable;
  /** What was said before the run. */
  readonly warnings?: readonly Warning[];
  /** Resident bytes of the process now, or the most so far; sampled for the report's peak. */
  readonly residentBytes?: () => number;
  /**
   * Resident bytes of the process now, where `residentBytes` is the most so far: tells the phases
   * of a run apart.
   */
  readonly currentBytes?: () => number;
}

/** What is told when work on plans of one source begins, with all steps that windows are to go. */
export function started(
  plans: readonly Pick<Plan, "source" | "sourceBytes">[],
  { source, backend, counter }: Pick<RunOptions, "source" | "backend"> & {
    readonly counter: StepCounter;
  },
): Event {
  return {
    type: "start",
    what: plans[0]!.source.label,
    device: backend.description,
    tensors: source.tensors.size,
    bytes: plans[0]!.sourceBytes,
    ...(counter.total > 0 ? { windows: counter.total } : {}),
    ...(plans.length > 1 ? { outputs: plans.length } : {}),
  };
}

/** A unit that was done elsewhere. */
export interface DoneUnit {
  readonly tensors: readonly TensorReport[];
  readonly warnings: readonly Warning[];
  readonly pieces: AsyncIterable<
    { readonly file: string; readonly begin: number; readonly bytes: Uint8Array }
  >;
}

/** The state of one run. */
export interface Context extends Omit<SharedOptions, "distributions"> {
  readonly plan: Plan;
  readonly report: Reporter;
  readonly trace: Trace;
  readonly output: Output;
  readonly reads: ReadAhead;
  readonly tensors: TensorReport[];
  /** By weight; undefined unless they are asked for. */
  readonly distributions: Map<string, Distribution> | undefined;
  /** Stored tensors of the unit at hand, kept while it is to be evaluated. */
  readonly packed: Map<string, Uint8Array<ArrayBuffer>>;
}
