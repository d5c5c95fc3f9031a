/** Memory for hidden states where no flag says how much: what the machine has. */
import type { Backend, DeviceLimits } from "../../backend.ts";
import { type PreparedWindows, STATE_BUDGET } from "../../windows.ts";
import type { Budgets } from "../../plan/fit.ts";
import { memoryOf } from "../../plan/outputs.ts";
import type { Plan } from "../../plan/planned.ts";
import type { Host } from "../command.ts";

/**
 * Bytes of hidden states of one text that a run may keep: half of the machine's memory, so that
 * others have the other half; of a GPU, what there is room for, which {@linkcode planInRoom} finds.
 */
export function stateLimit({ room }: DeviceLimits, host: Host): number {
  if (room) return Number.MAX_SAFE_INTEGER;
  const all = host.machineBytes();
  return all === undefined ? STATE_BUDGET : Math.floor(all / 2);
}

/**
 * Bytes of hidden states that a walk without a plan may keep of those there are: half of the
 * machine's memory, or of the room that a GPU has for them.
 */
export async function walkLimit(backend: Backend, host: Host, wanted: number): Promise<number> {
  return backend.room ? Math.floor(await backend.room(2 * wanted) / 2) : stateLimit(backend, host);
}

/** The budget that was given, or where none was, which is said by infinity, the limit. */
export function givenOr(stateBudget: number, limit: number): number {
  return stateBudget === Infinity ? limit : stateBudget;
}

/** Windows with the memory for hidden states that the flag says, or the machine has. */
export async function withRoom(
  windows: PreparedWindows,
  { floatsPerToken, backend, host }: {
    readonly floatsPerToken: number;
    readonly backend: Backend;
    readonly host: Host;
  },
): Promise<PreparedWindows> {
  const wanted = windows.windows.length * windows.seqLen * floatsPerToken * 4;
  const stateBudget = givenOr(windows.stateBudget, await walkLimit(backend, host, wanted));
  return { ...windows, stateBudget };
}

/**
 * Plans of one run for the memory of the GPU where no budget is given: as much as it has room for,
 * and no more than half of what the machine has, because a GPU may have no memory of its own.
 */
export async function planInRoom(
  make: (budgets: Budgets) => Plan[],
  { budgets, device, host }: {
    readonly budgets: Budgets;
    readonly device: DeviceLimits;
    readonly host: Host;
  },
): Promise<Plan[]> {
  const planned = make(budgets);
  if (!device.room || budgets.vram !== undefined) return planned;
  const { device: wanted } = memoryOf(planned);
  const half = (host.machineBytes() ?? 4 * STATE_BUDGET) / 2;
  const vram = Math.floor(Math.min(half, await device.room(wanted)));
  return vram < wanted ? make({ ...budgets, vram }) : planned;
}
