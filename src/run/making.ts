/** One output of a run while it is made: its place, what is known of it, what walks for it. */
import type { Calibration } from "../calibration/pass.ts";
import type { Streams } from "../forward/streams.ts";
import { type ModelWeights, quantizedWeights } from "../forward/weights.ts";
import type { Distribution } from "../metrics/distribution.ts";
import { isSeenTogether } from "../plan/outputs.ts";
import type { Unit } from "../plan/tasks.ts";
import type { Event, Reporter, StepCounter, TensorReport, Warning } from "../report.ts";
import type { Trace } from "../trace.ts";
import { openCalibration } from "./calibrated.ts";
import type { Context, PlannedOutput, SharedOptions } from "./context.ts";
import { Output } from "./output.ts";
import { neededAtTheEnd } from "./readings.ts";
import { SAVE_SHARE, type SavedPart } from "./saves.ts";
import type { PartInContext } from "./unit.ts";

/** What all outputs of a run have in common. */
export interface Common {
  readonly given: SharedOptions;
  readonly counter: StepCounter;
  readonly trace: Trace;
}

/** See the head of this file. */
export class Making implements AsyncDisposable {
  readonly index: number;
  readonly plan: PlannedOutput["plan"];
  readonly asked: PlannedOutput;
  readonly warnings: Warning[];
  readonly report: Reporter;
  readonly tensors: TensorReport[] = [];
  readonly distributions: Map<string, Distribution> | undefined;
  readonly packed: Context["packed"] = new Map();
  readonly output: Output;
  readonly calibration: Calibration | undefined;
  /** An output before this one whose calibration is this one's too. */
  readonly #seenWith: Making | undefined;
  /** What the evaluation runs from: what was packed of the unit at hand. */
  readonly weights: ModelWeights;
  /** Output tensors that are kept to the end. */
  readonly #kept: ReadonlySet<string>;

  constructor(
    asked: PlannedOutput,
    { given, counter, trace, before }: Common & {
      /** The outputs before it. */
      readonly before: readonly Making[];
    },
  ) {
    const { plan, sink } = asked;
    this.asked = asked;
    this.index = before.length;
    this.plan = plan;
    this.warnings = [...given.warnings ?? []];
    this.report = (event: Event) => {
      if (event.type === "warning") {
        this.warnings.push({ code: event.code, message: event.message });
      }
      (asked.report ?? given.report)?.(event);
    };
    this.distributions = given.distributions ? new Map() : undefined;
    const hashShare = (given.saveShare ?? SAVE_SHARE) / 2;
    this.output = new Output(plan.files, { sink, report: this.report, trace, hashShare });
    this.weights = quantizedWeights(plan, { source: given.source, packed: this.packed });
    this.#seenWith = before.find((other) => isSeenTogether(plan, other.plan));
    const walking = { ...given, report: this.report };
    this.calibration = openCalibration(plan, walking, counter, {
      known: this.#seenWith?.calibration,
    });
    this.#kept = neededAtTheEnd(plan);
  }

  /** A unit of it, for saves. */
  saved(unit: Unit, streams: Streams | undefined): SavedPart {
    const { index, output, tensors, distributions, warnings, calibration } = this;
    const carried = streams?.carried(index + 1);
    const state = { output, tensors, distributions, warnings, streams: carried, calibration };
    return { index, unit, state };
  }

  /** A unit of it, to be done in a context. */
  part(unit: Unit, shared: SharedOptions & Pick<Context, "trace" | "reads">): PartInContext {
    const { plan, report, output, tensors, distributions, packed, calibration } = this;
    const context = { ...shared, plan, report, output, tensors, distributions, packed };
    return { plan, unit, context, calibration };
  }

  /** Keep again what an earlier run has written and the scores are computed from. */
  async readBack(units: number): Promise<void> {
    // A copy is read from the source, as it is while the run goes on.
    const outputs = this.plan.units.slice(0, units).flatMap(({ tasks }) => tasks)
      .flatMap((task) => task.kind === "copy" ? [] : task.outputs);
    for (const { name } of outputs) {
      if (this.#kept.has(name)) this.packed.set(name, await this.output.read(name));
    }
  }

  /** Take what was done elsewhere. */
  async take(signal: AbortSignal | undefined): Promise<void> {
    for await (const done of this.asked.units ?? []) {
      for await (const { file, begin, bytes } of done.pieces) {
        signal?.throwIfAborted();
        await this.output.place(file, begin, bytes);
      }
      this.tensors.push(...done.tensors);
      this.warnings.push(...done.warnings);
    }
  }

  /** A unit is over. */
  forget(): void {
    for (const tensor of this.packed.keys()) {
      if (!this.#kept.has(tensor)) this.packed.delete(tensor);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#seenWith) await this.calibration?.[Symbol.asyncDispose]();
    await this.output[Symbol.asyncDispose]();
  }
}
