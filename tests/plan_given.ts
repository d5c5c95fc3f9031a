/** Plans of small checkpoints, made from a list of tensors and a config. */
import type { DeviceLimits } from "../src/backend.ts";
import type { Budgets } from "../src/plan/fit.ts";
import type { TensorTask } from "../src/plan/tasks.ts";
import type { Plan } from "../src/plan/planned.ts";
import { plan } from "../src/plan.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import type { TensorInfo } from "../src/tensor.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

/** A device that binds much. */
export const DEVICE: DeviceLimits = {
  name: "wasm",
  maxTensorBytes: 2 ** 30,
  sliceBytes: 2 ** 22,
  productRows: 512,
  busyRows: 8192,
  software: false,
  supports: () => true,
};

/** The plan for a checkpoint of these tensors, and of that config; `null` for none. */
export async function planOf(
  recipe: Parameters<typeof plan>[0],
  {
    tensors = tinyTensors(),
    config = TINY_CONFIG,
    device = DEVICE,
    evaluate = false,
    calibrate = false,
    budgets = {},
  }: {
    tensors?: TensorInfo[];
    config?: Readonly<Record<string, unknown>> | null;
    device?: DeviceLimits;
    evaluate?: boolean;
    calibrate?: boolean;
    budgets?: Budgets;
  } = {},
): Promise<Plan> {
  const folder = await makeCheckpoint(tensors, config ? { config } : {});
  try {
    await using source = await openCheckpoint(folder);
    const windows = { seqLen: 16, windows: 4, stateBudget: 1e6 };
    return plan(recipe, source, {
      device,
      budgets,
      ...(evaluate ? { evaluation: windows } : {}),
      ...(calibrate ? { calibration: windows } : {}),
    });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** What becomes of every tensor, unit after unit. */
export function tasksOf({ units }: Plan): TensorTask[] {
  return units.flatMap(({ tasks }) => tasks);
}

/** By tensor: the kind of its scheme, or what becomes of it where it has none. */
export function fates(made: Plan): Record<string, string> {
  return Object.fromEntries(
    tasksOf(made).map((task) => [
      task.source.name,
      task.kind === "quantize" ? task.scheme.kind : task.kind,
    ]),
  );
}
