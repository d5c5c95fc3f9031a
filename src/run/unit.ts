/** One unit of a plan, done: its weights quantized, with calibration or without, and written. */
import type { Calibration } from "../calibration/pass.ts";
import type { LoadedBlock } from "../forward/loaded_block.ts";
import type { ModelWeights } from "../forward/weights.ts";
import { graphsOf } from "../graph/block_graph.ts";
import type { Unit } from "../plan/tasks.ts";
import { calibrateBlock, isCopied } from "./calibrated.ts";
import type { Context } from "./context.ts";
import { perform } from "./perform.ts";

/**
 * Quantize and write what a unit has; a block that was calibrated is on the device as it was until
 * `scope` ends.
 */
export async function performUnit(
  { place, tasks }: Unit,
  { context, calibration, original, scope }: {
    readonly context: Context;
    readonly calibration: Calibration | undefined;
    readonly original: ModelWeights;
    readonly scope: ReturnType<Context["backend"]["scope"]>;
  },
): Promise<LoadedBlock | undefined> {
  const { model } = context.plan;
  const graphs = calibration && model && typeof place === "number" ? graphsOf(model) : undefined;
  let loaded: LoadedBlock | undefined;
  if (calibration && graphs) {
    const last = place === graphs.length - 1;
    const graph = graphs[place as number]!;
    loaded = await calibrateBlock(graph, { tasks, last, context, calibration, original, scope });
  }
  for (const task of tasks) {
    context.signal?.throwIfAborted();
    if (!loaded || isCopied(task)) await perform(task, context);
  }
  if (calibration && place === "embedding") {
    await context.trace.time("walk", () => calibration.embed(original));
  }
  return loaded;
}

/** The tasks of a unit whose tensors are read slice by slice. */
export function readAhead(
  { place, tasks }: Unit,
  calibration: Calibration | undefined,
): Unit["tasks"] {
  return calibration && typeof place === "number" ? tasks.filter(isCopied) : tasks;
}
