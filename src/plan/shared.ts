/** What the folder takes in which machines meet that share a plan. */
import type { DeviceLimits } from "../backend.ts";
import { graphsOf } from "../graph/block_graph.ts";
import { residualEdge } from "../graph/residual.ts";
import { gram } from "../observers/gram.ts";
import { sum } from "../tensor.ts";
import { carryBytes } from "./fit.ts";
import { inputObserver, isCalibrated, observersOf } from "./needs.ts";
import type { Plan } from "./planned.ts";
import { quantizeTasks } from "./tasks.ts";

/** Bytes on the shared disk. */
export interface SharedBytes {
  /** All units, until they are merged. */
  readonly units: number;
  /** What workers that calibrate together exchange at once, at most: 0 where they do not. */
  readonly exchanged: number;
  /** What each worker adds to that. */
  readonly exchangedByEach: number;
}

/** Whether blocks are calibrated by all workers together, each on its shards of the windows. */
export function isInShards({ calibration, recipe }: Pick<Plan, "calibration" | "recipe">): boolean {
  return calibration !== undefined && recipe.calibrateOn !== "float";
}

/** What a plan takes of the folder that machines share. */
export function sharedBytes(plan: Plan, device: DeviceLimits): SharedBytes {
  const { model, calibration, propagate, tuned, files } = plan;
  const units = sum(files, ({ size, head }) => size - head.length);
  if (!model || !calibration) return { units, exchanged: 0, exchangedByEach: 0 };
  // Before a block and before the next.
  const states = carryBytes(model, { calibration }, { device, propagate, tuned });
  // Before the last block that windows have reached; of each worker before that which it is at, and
  // before one more.
  if (!isInShards(plan)) return { units, exchanged: states / 2, exchangedByEach: states };
  // Of a block, and of the next, which some may be at already.
  const sums = 2 * Math.max(...sumsOf(plan, calibration));
  return { units, exchanged: states + sums, exchangedByEach: 0 };
}

/** Bytes of what is gathered of all shards, by block. */
function sumsOf(
  { model, units, propagate }: Plan,
  { shards = 1, windows, seqLen }: NonNullable<Plan["calibration"]>,
): number[] {
  const tasks = new Map(quantizeTasks(units).map((task) => [task.name, task]));
  return graphsOf(model!).map((graph) =>
    sum(graph.stages, (stage) => {
      const calibrated = stage.matrices.flatMap(({ name }) => tasks.get(name) ?? [])
        .filter(isCalibrated);
      const observers = new Set(calibrated.flatMap((task) => [
        ...observersOf(task),
        ...[inputObserver(task.scheme, task.rule.options)].filter((one) => one !== undefined),
      ]));
      const { channels } = stage;
      const difference = propagate && observers.has(gram)
        ? (residualEdge(graph, stage)?.linear.rows ?? channels) * channels * 4
        : 0;
      // Counts that are u32 on the device are saved as f64.
      const seen = sum([...observers], (observer) =>
        (observer === gram ? 1 : 2) * observer.bytes(channels, windows * seqLen));
      return shards * (seen + difference);
    })
  );
}
