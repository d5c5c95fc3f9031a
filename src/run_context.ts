/** The state of a run, and what every way of quantizing does with it: pieces are written, weights are reported. */
import type { Backend } from "./backend.ts";
import type { CalibrationInput } from "./calibrate.ts";
import type { Piece } from "./format.ts";
import type { Distribution } from "./distribution.ts";
import type { Output } from "./output.ts";
import type { PhaseClock } from "./phases.ts";
import type { Plan, Step } from "./plan.ts";
import type { ReadAhead } from "./read_ahead.ts";
import type { CalibrationFacts, Reporter, TensorReport } from "./report.ts";
import type { RunReport } from "./run.ts";
import type { Scheme } from "./scheme.ts";
import { schemeKind } from "./schemes/mod.ts";
import type { Sink } from "./sink.ts";
import type { TensorSource } from "./source.ts";
import type { EvaluationInput } from "./streams.ts";
import { byteLength, elementCount, type TensorInfo } from "./tensor.ts";
import type { Stopwatch } from "./timeline.ts";
import { WeightMeasures } from "./weight_measures.ts";

/** What a run needs beside its plan. */
export interface RunOptions {
  readonly source: TensorSource;
  readonly backend: Backend;
  readonly sink: Sink;
  readonly report?: Reporter;
  /** Stops the run between two slices; nothing is left under the final name. */
  readonly signal?: AbortSignal;
  /** Compute every metric of every quantized weight, and the error of the outputs of those that are calibrated. */
  readonly metrics?: boolean;
  /** Keep how the values and codes of every quantized weight are distributed, as a report shows them; only with `metrics`. */
  readonly distributions?: boolean;
  /** Measure the model in the same pass; the plan must have been made with the same windows. */
  readonly evaluation?: EvaluationInput;
  /** What to calibrate on; required if the plan has a calibration, and must be of the same windows. */
  readonly calibration?: CalibrationInput;
  /** The command line that asks for it, as others can repeat it: the record tells it. */
  readonly command?: string;
  /** What was said before the run. */
  readonly warnings?: RunReport["warnings"];
  /** Resident bytes of the process now, or the most so far; sampled for the report's peak. */
  readonly residentBytes?: () => number;
  /** Resident bytes of the process now, where `residentBytes` is the most so far: tells the phases of a run apart. */
  readonly currentBytes?: () => number;
}

/** The state of one run. */
export interface Context extends RunOptions {
  readonly plan: Plan;
  readonly report: Reporter;
  readonly output: Output;
  readonly tensors: TensorReport[];
  /** By weight; empty unless asked for. */
  readonly spread: Map<string, Distribution>;
  readonly phases: PhaseClock;
  /** Packed tensors of the block at hand, kept while it is to be evaluated. */
  readonly packed: Map<string, Uint8Array<ArrayBuffer>>;
  /** Of those, the ones that stay until the end. */
  readonly kept: ReadonlySet<string>;
  readonly reads: ReadAhead;
  readonly watch: Stopwatch;
  peak: number;
}

/** Note how much memory the process has. */
export function sample(context: Context): void {
  context.peak = Math.max(context.peak, context.residentBytes?.() ?? 0);
}

/** Room for the stored bytes of a weight, which the evaluation runs from. */
export function keepPacked(outputs: readonly TensorInfo[], { packed, evaluation }: Context): void {
  if (!evaluation) return;
  for (const output of outputs) packed.set(output.name, new Uint8Array(byteLength(output)));
}

/** What measures a weight, if it is to be measured. */
export function openMeasures(
  scheme: Scheme,
  { backend, metrics, distributions = false }: Context,
): WeightMeasures | undefined {
  return metrics ? new WeightMeasures(backend, { scheme, distributions }) : undefined;
}

/** Say how a weight fared. */
export function finishWeight(
  { source: tensor, fate, outputs }: Step,
  { measures, context, calibration }: {
    measures: WeightMeasures | undefined;
    context: Context;
    calibration?: CalibrationFacts;
  },
): void {
  if (fate.kind !== "quantize") return;
  const result: TensorReport = {
    name: tensor.name,
    scheme: schemeKind(fate.scheme).label(fate.scheme),
    bitsPerWeight: outputs.reduce((n, output) => n + byteLength(output), 0) * 8 /
      elementCount(tensor.shape),
    method: fate.chain.name,
    metrics: measures?.metrics() ?? {},
    ...(calibration ? { calibration } : {}),
  };
  context.tensors.push(result);
  const distribution = measures?.distribution();
  if (distribution) context.spread.set(tensor.name, distribution);
  context.report({ type: "quantized", tensor: result, bytes: byteLength(tensor) });
}

/** Write pieces of stored tensors, and keep those that the evaluation runs from. */
export async function writePieces(
  pieces: readonly Piece[],
  { output, packed, phases }: Context,
): Promise<void> {
  for (const { tensor, offset, bytes } of pieces) {
    packed.get(tensor)?.set(bytes, offset);
    await phases.time("write", () => output.write(tensor, offset, bytes));
  }
}
