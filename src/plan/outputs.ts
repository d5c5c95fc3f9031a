/** What several plans of one checkpoint come to, when one run makes all of them. */
import type { DeviceLimits } from "../backend.ts";
import { SPILL_BYTES, TABLE_BYTES } from "../limits.ts";
import { schemeKind } from "../schemes/mod.ts";
import { byteLength, matrixShape, sum } from "../tensor.ts";
import type { MemoryPlan, Plan, WindowsRequest } from "./planned.ts";
import { spilledTokens } from "./stacks.ts";
import { quantizeTasks, type Unit } from "./tasks.ts";

/**
 * Whether two outputs can be calibrated by the same walk: both see the original's hidden states, and
 * neither trains a block, for which states are kept that are its own.
 */
export function isSeenTogether(one: Plan, other: Plan): boolean {
  const walkOf = ({ calibration, tuned, recipe, matrixPlaces }: Plan) =>
    calibration && !tuned && recipe.calibrateOn === "float"
      ? JSON.stringify([calibration, matrixPlaces])
      : undefined;
  return walkOf(one) !== undefined && walkOf(one) === walkOf(other);
}

/** What a run holds of its other outputs while one of them is at work. */
export interface Beside {
  /** Bytes of their hidden states and slices of their heads, where those of the run lie. */
  readonly states: number;
  /**
   * Bytes on the host: what was packed of a block, until it was measured, and what of the carry is
   * on its way to the disk.
   */
  readonly onHost: number;
}

/** What the other outputs of a run must count of a plan that was made as if it were alone. */
export function besideOf(
  { model, recipe, units, evaluation, calibration, memory, carryBytes }: Plan,
  device: DeviceLimits,
): Beside {
  // Blocks of those that are calibrated together are on the device together.
  const codes = model && calibration && recipe.calibrateOn === "float"
    ? Math.max(...units.map(codeBytes))
    : 0;
  const saving = Math.min(SPILL_BYTES, carryBytes);
  if (!model || !evaluation) return { states: memory.states + codes, onHost: saving };
  const { windows, seqLen } = evaluation;
  const spilled = spilledTokens(evaluation, 2 * model.hiddenSize, { model, device });
  // The original's stream is there once for all.
  const original = (windows * seqLen - spilled) * model.hiddenSize * 4;
  const packed = units.map(({ tasks }) =>
    sum(tasks, (task) => task.kind === "quantize" ? sum(task.outputs, byteLength) : 0)
  );
  const head = Math.min(TABLE_BYTES, model.vocabSize * model.hiddenSize * 4);
  return {
    states: memory.states + codes - original + head,
    onHost: saving + Math.max(0, ...packed),
  };
}

/** Bytes of a block's codes; nothing of what belongs to none. */
function codeBytes({ place, tasks }: Unit): number {
  if (typeof place !== "number") return 0;
  return sum(
    quantizeTasks([{ name: "", place, tasks }]),
    ({ scheme, weight }) => schemeKind(scheme).codeBytes(scheme, ...matrixShape(weight.shape)),
  );
}

/**
 * Windows of the evaluation as they walk in a run of several plans: in stacks that all of these
 * have, with memory for a stream of each and the original's.
 */
export function evaluationTogether<T extends Pick<WindowsRequest, "stateBudget">>(
  input: T,
  plans: readonly Plan[],
): T & Pick<WindowsRequest, "stateBudget" | "stackTokens"> {
  const walks = plans.flatMap(({ evaluation }) => evaluation ?? []);
  const stacked = walks.flatMap(({ stackTokens }) => stackTokens ?? []);
  const budget = Math.min(input.stateBudget, ...walks.map(({ stateBudget }) => stateBudget));
  return {
    ...input,
    // A plan's is for two streams.
    stateBudget: budget * (1 + walks.length) / 2,
    ...(stacked.length > 0 ? { stackTokens: Math.min(...stacked) } : {}),
  };
}

/** The memory of a run that makes what all plans of `planOutputs` have: of each part the most. */
export function memoryOf(plans: readonly Plan[]): MemoryPlan {
  return plans.map(({ memory }) => memory).reduce((all, memory) =>
    Object.fromEntries(
      Object.entries(all).map((
        [part, bytes],
      ) => [part, Math.max(bytes, memory[part as keyof MemoryPlan])]),
    ) as unknown as MemoryPlan
  );
}
