/**
 * How blocks are trained: by which method, on which of the calibration's windows, how many of them
 * at a time, and what the way back through a block keeps. Pure; the plan and the run ask alike.
 */
import type { Model } from "../family.ts";
import { type BlockGraph, graphsOf } from "../graph/block_graph.ts";
import { planTape, type TapePlan } from "../graph/tape.ts";
import type { TrainingManner, TuningMethod, TuningSchedule } from "../method.ts";
import { UnsupportedError } from "../errors.ts";
import { TAPE_BYTES } from "../limits.ts";
import type { WindowsRequest } from "./planned.ts";
import type { Decision, QuantizeDecision } from "./tasks.ts";

/** One window of so many is not trained on, but judges what training has come to. */
const HELD_OUT = 8;

/** By what a block is trained. */
export interface Tuning extends TrainingManner {
  readonly method: TuningMethod;
}

/** What trains some weights of a block; undefined where nothing does. */
export function tuningOf(decisions: Iterable<Decision | undefined>): Tuning | undefined {
  for (const decision of decisions) {
    if (decision?.kind !== "quantize" || !decision.chain.tuning) continue;
    const { chain: { tuning, rounding }, rule: { options } } = decision;
    return { method: tuning, options, compensated: rounding.compensates === true };
  }
  return undefined;
}

/** Windows by their use, by number. */
export interface SplitWindows {
  readonly training: readonly number[];
  readonly heldOut: readonly number[];
}

/** Which windows a block is trained on, and which judge it. */
export function splitWindows(count: number): SplitWindows {
  const judges = Math.max(1, Math.floor(count / HELD_OUT));
  const isHeldOut = (i: number) =>
    Math.floor((i + 1) * judges / count) > Math.floor(i * judges / count);
  const all = Array.from({ length: count }, (_, i) => i);
  return {
    training: all.filter((i) => !isHeldOut(i)),
    heldOut: all.filter(isHeldOut),
  };
}

/** How blocks are trained on so many windows. */
export function scheduleOf({ method, ...manner }: Tuning, windows: number): TuningSchedule {
  return method.schedule(manner, splitWindows(windows).training.length);
}

/** Windows that go through a block and back together: of one step, as many as walk together. */
export function windowsTogether(
  { batch }: TuningSchedule,
  { stackTokens, seqLen }: { readonly stackTokens: number; readonly seqLen: number },
): number {
  return Math.max(1, Math.min(batch, Math.floor(stackTokens / seqLen)));
}

/** The way of a stack of windows through a block and back, to what comes before it if asked. */
export function wayBack(
  graph: BlockGraph,
  windows: { readonly tokens: number; readonly seqLen: number },
  { inputGradient }: { readonly inputGradient: boolean },
): TapePlan {
  return planTape(graph, { ...windows, inputGradient, budget: TAPE_BYTES });
}

/** Whether a block is trained for what the model predicts after it. */
export function isForPredictions(
  model: Model,
  graph: BlockGraph,
  { klBlocks }: Pick<TuningSchedule, "klBlocks">,
): boolean {
  const graphs = graphsOf(model);
  return graphs.indexOf(graph) >= graphs.length - klBlocks;
}

/**
 * @throws {UnsupportedError} weights of one block would be trained for different times, or there
 * are too few windows to train on some and be judged by others.
 */
export function checkTuning(
  model: Model,
  { decisionOf, calibration }: {
    /** By the name of a matrix. */
    readonly decisionOf: (name: string) => Decision | undefined;
    readonly calibration: WindowsRequest;
  },
): void {
  for (const graph of graphsOf(model)) {
    const tuned = graph.matrices.flatMap(({ name }): QuantizeDecision[] => {
      const decision = decisionOf(name);
      return decision?.kind === "quantize" && decision.chain.tuning ? [decision] : [];
    });
    const [first] = tuned;
    if (!first) continue;
    if (calibration.windows < 2) {
      refuse(
        first,
        "it is trained on some windows and judged by others, and the calibration has one; " +
          "give at least two (`numSamples`)",
      );
    }
    const { klBlocks } = scheduleOf(tuningOf([first])!, calibration.windows);
    const blocks = graphsOf(model).length;
    if (klBlocks > blocks) {
      refuse(first, `\`kl-blocks\` is ${klBlocks}, and the model has ${blocks} blocks`);
    }
    if (klBlocks > 0 && !model.head) {
      refuse(first, "`kl-blocks` train for what the model predicts, and it has no output head");
    }
    const alike = (decision: QuantizeDecision) =>
      JSON.stringify(scheduleOf(tuningOf([decision])!, calibration.windows));
    const other = tuned.find((decision) => alike(decision) !== alike(first));
    if (other) {
      refuse(
        first,
        `it and "${other.name}" are trained together, as weights of one block, but not in the ` +
          "same steps (`iterations`, `epochs`, `batch-size`, `lr` and `scale-lr`, which are others " +
          "after gptq unless given, `kl-blocks`, `gradients`); give the same to both",
      );
    }
  }
}

function refuse({ name, chain }: QuantizeDecision, reason: string): never {
  throw new UnsupportedError(`Cannot quantize "${name}" by ${chain.name}: ${reason}.`, {
    what: name,
    reason,
  });
}
