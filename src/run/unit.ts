/**
 * One unit, done for every output of a run: weights quantized, with calibration or without, and
 * written. What several outputs need of the source is read once: a block for all that calibrate it,
 * and for those beside them that do not; a slice of any other tensor for all that have a share in
 * it.
 */
import type { Scope } from "../backend.ts";
import type { Calibration } from "../calibration/pass.ts";
import { embedTogether } from "../calibration/embed.ts";
import { LoadedBlock } from "../forward/loaded_block.ts";
import type { ModelWeights } from "../forward/weights.ts";
import { graphsOf } from "../graph/block_graph.ts";
import type { Plan } from "../plan/planned.ts";
import type { QuantizeTask, TensorTask, Unit } from "../plan/tasks.ts";
import { calibrateBlocks, isCopied } from "./calibrated.ts";
import type { Context } from "./context.ts";
import { perform, performLoaded } from "./perform.ts";
import { type Together, together } from "./read_ahead.ts";

/** A unit of one output's plan. */
export interface Part {
  readonly plan: Plan;
  readonly unit: Unit;
}

/** A unit of a run: what each output makes of the same tensors. */
export interface Step<P extends Part = Part> {
  readonly parts: readonly P[];
  /** Parts whose weights are calibrated together with their block, which is loaded for them. */
  readonly calibrated: readonly P[];
  /** What is read slice by slice, for all parts. */
  readonly reads: readonly Together[];
  /** Weights of parts that are not calibrated, which are taken from the block loaded for others. */
  readonly fromBlock: readonly { readonly part: P; readonly task: QuantizeTask }[];
}

/** How a unit is done for the outputs that are to have it. */
export function stepOf<P extends Part>(parts: readonly P[]): Step<P> {
  const [{ plan: { model }, unit: { place } }] = parts as readonly [P];
  const graph = model && typeof place === "number" ? graphsOf(model)[place] : undefined;
  const calibrated = graph ? parts.filter(({ plan }) => plan.calibration !== undefined) : [];
  const loaded = new Set(calibrated.length > 0 ? graph!.matrices.map(({ name }) => name) : []);
  const others = parts.filter((part) => !calibrated.includes(part));
  const isLoaded = (task: TensorTask): task is QuantizeTask =>
    task.kind === "quantize" && loaded.has(task.name);
  return {
    parts,
    calibrated,
    reads: together([
      ...calibrated.flatMap(({ unit }) => unit.tasks.filter(isCopied)),
      ...others.flatMap(({ unit }) => unit.tasks.filter((task) => !isLoaded(task))),
    ]),
    fromBlock: others.flatMap((part) =>
      part.unit.tasks.filter(isLoaded).map((task) => ({ part, task }))
    ),
  };
}

/** A part that is being done. */
export interface PartInContext extends Part {
  readonly context: Context;
  readonly calibration: Calibration | undefined;
}

/**
 * Quantize and write what a unit has; a block that was calibrated is on the device as it was until
 * `scope` ends.
 */
export async function performStep(
  { parts, calibrated, reads, fromBlock }: Step<PartInContext>,
  { original, scope, stay = false }: {
    readonly original: ModelWeights;
    readonly scope: Scope;
    /** Windows need not go past the unit. */
    readonly stay?: boolean | undefined;
  },
): Promise<LoadedBlock | undefined> {
  const [{ plan: { model }, unit: { place }, context: first }] = parts as readonly [PartInContext];
  let loaded: LoadedBlock | undefined;
  if (calibrated.length > 0) {
    const graphs = graphsOf(model!);
    const graph = graphs[place as number]!;
    const last = stay || place === graphs.length - 1;
    loaded = await first.trace.time("load", () => LoadedBlock.load(graph, original, { scope }));
    await calibrateBlocks(graph, calibrated, { last, original, loaded });
    for (const { part: { context }, task } of fromBlock) {
      await performLoaded(task, { loaded, context });
    }
  }
  const contexts = new Map(
    parts.flatMap(({ unit, context }) => unit.tasks.map((task) => [task, context] as const)),
  );
  for (const tasks of reads) {
    first.signal?.throwIfAborted();
    await perform(tasks.map((task) => ({ task, context: contexts.get(task)! })), first);
  }
  const calibrations = [...new Set(parts.flatMap(({ calibration }) => calibration ?? []))];
  if (calibrations.length > 0 && place === "embedding") {
    await first.trace.time("walk", () => embedTogether(calibrations, original));
  }
  return loaded;
}
