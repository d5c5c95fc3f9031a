/** Blocks quantized with calibration (calibration/block.ts tells how), packed and written. */
import type { Tensor } from "../backend.ts";
import { quantizeBlock } from "../calibration/block.ts";
import type { BlockTensors } from "../calibration/block_tensors.ts";
import type { ShardExchange } from "../calibration/gathering.ts";
import type { CalibrationInput } from "../calibration/input.ts";
import { Calibration } from "../calibration/pass.ts";
import { type QuantizedWeight, unscaled } from "../calibration/quantized_weight.ts";
import type { Model } from "../family.ts";
import type { LoadedBlock } from "../forward/loaded_block.ts";
import type { ModelWeights } from "../forward/weights.ts";
import { type BlockGraph, graphsOf } from "../graph/block_graph.ts";
import type { Plan } from "../plan/planned.ts";
import { stackedAs } from "../plan/stacks.ts";
import type { TensorTask, Unit } from "../plan/tasks.ts";
import { scheduleOf, tuningOf } from "../plan/tuning.ts";
import type { Reporter, StepCounter } from "../report.ts";
import { sum } from "../tensor.ts";
import type { Context, SharedOptions } from "./context.ts";
import { placeMatrices } from "./matrices.ts";
import { keepPacked, packTogether, type SliceWork, storeWeight, writePieces } from "./store.ts";

/**
 * The calibration of a plan that has one.
 *
 * @param options.known That of another output, by the same walk.
 * @param options.exchange Where others hold shards of its windows.
 */
export function openCalibration(
  { model, units, calibration: planned, propagate, tuned }: Plan,
  { backend, calibration: input, report = () => {} }: SharedOptions,
  counter: StepCounter,
  { known, exchange }: {
    readonly known?: Calibration | undefined;
    readonly exchange?: ShardExchange | undefined;
  } = {},
): Calibration | undefined {
  if (!planned || !model) return undefined;
  if (input?.windows.length !== planned.windows) {
    throw new RangeError(
      `Cannot run the plan: it calibrates on ${planned.windows} windows, got ${
        input?.windows.length ?? 0
      }`,
    );
  }
  warnOfFewTokens(model, input, report);
  return known ?? new Calibration(model, {
    backend,
    input: stackedAs(
      { ...input, stateBudget: Math.min(input.stateBudget, planned.stateBudget) },
      planned,
    ),
    propagate,
    tuned,
    trainingSteps: sum(units, ({ tasks }) => {
      const tuning = tuningOf(tasks);
      const { iterations, batch } = tuning
        ? scheduleOf(tuning, planned.windows)
        : { iterations: 0, batch: 0 };
      return iterations * batch;
    }),
    counter,
    exchange,
  });
}

/** A Gram matrix of fewer tokens than it has rows does not have full rank. */
function warnOfFewTokens(model: Model, { windows }: CalibrationInput, report: Reporter): void {
  const tokens = windows.length * windows[0]!.length;
  const stages = graphsOf(model).flatMap(({ stages }) => stages);
  const widest = Math.max(...stages.map(({ channels }) => channels));
  if (tokens >= widest) return;
  report({
    type: "warning",
    code: "few-tokens",
    message:
      `Calibrating on ${tokens} tokens, fewer than the ${widest} inputs of the widest layer: ` +
      "the result will be worse than it could be. Use more windows (`numSamples`) or longer ones (`seqLen`).",
  });
}

/** Whether a task needs no calibration even where its block is calibrated. */
export function isCopied({ kind }: TensorTask): boolean {
  return kind === "copy" || kind === "drop";
}

/** A block's tasks in one output, and what they are done with. */
export interface CalibratedPart {
  readonly unit: Pick<Unit, "tasks">;
  readonly context: Context;
  readonly calibration: Calibration | undefined;
}

/**
 * Quantize a block with calibration, and write it: for outputs of one calibration together, for
 * others one after the other.
 */
export async function calibrateBlocks(
  graph: BlockGraph,
  parts: readonly CalibratedPart[],
  { last, original, loaded }: {
    /** No block follows it. */
    readonly last: boolean;
    readonly original: ModelWeights;
    /** The block as the checkpoint has it. */
    readonly loaded: LoadedBlock;
  },
): Promise<void> {
  for (const [calibration, group] of Map.groupBy(parts, ({ calibration }) => calibration!)) {
    const { backend, plan } = group[0]!.context;
    using _ = placeMatrices(plan, group[0]!.context);
    using held = backend.scope();
    const contexts = group.map(({ unit: { tasks }, context }) => ({
      ...context,
      tasks,
      propagate: context.plan.propagate,
      float: context.plan.recipe.calibrateOn === "float",
      calibration,
      original: loaded,
      model: plan.model!,
      originals: original,
      scope: held,
    }));
    const blocks = await quantizeBlock(graph, contexts, { last });
    for (const [i, { unit: { tasks }, context }] of group.entries()) {
      await storeBlock(blocks[i]!, { tasks, context, loaded });
    }
  }
}

/** Pack and write what became of a block. */
async function storeBlock(
  { weights, vectors }: BlockTensors,
  { tasks, context, loaded }: {
    readonly tasks: readonly TensorTask[];
    readonly context: Context;
    readonly loaded: LoadedBlock;
  },
): Promise<void> {
  const pieces = await packTogether(weights.values(), context);
  for (const weight of weights.values()) {
    const { task, facts: calibration } = weight;
    const slices = slicesOf(weight, loaded);
    await storeWeight(task, { slices, packed: pieces.get(task.name), calibration }, context);
  }
  for (const task of tasks) {
    if (task.kind !== "smooth") continue;
    // Where all scales were 1, it is as it was.
    await writeVector(task, vectors.get(task.name) ?? loaded.vector(task.name), context);
  }
}

/** The slices of a weight whose codes were chosen. */
function* slicesOf(weight: QuantizedWeight, loaded: LoadedBlock): Generator<SliceWork> {
  for (const slice of weight.slices) {
    const { rows, quantized } = slice;
    yield {
      rows,
      choose: () => ({
        quantized,
        original(scope) {
          const ids = Uint32Array.from({ length: rows.to - rows.from }, (_, i) => rows.from + i);
          return loaded.rows(weight.task.name, ids, scope);
        },
        values: (scope) => unscaled(weight, slice, scope),
      }),
    };
  }
}

/** Write a norm or a bias that calibration may have changed. */
async function writeVector(task: TensorTask, tensor: Tensor, context: Context): Promise<void> {
  const { name } = task;
  const [bytes] = await context.backend.read(tensor);
  keepPacked(task, context);
  await writePieces([{ tensor: name, offset: 0, bytes: bytes! }], context);
  context.report({ type: "copied", name, bytes: bytes!.length });
}
