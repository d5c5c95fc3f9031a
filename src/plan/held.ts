/** Bytes by where they are held, and how they add up over the parts of a run. */
import type { DeviceLimits } from "../backend.ts";
import { sum } from "../tensor.ts";

/** What some part of a run holds: on the device, on the host, on both at once, and on disk. */
export interface Held {
  readonly device: number;
  readonly host: number;
  readonly both: number;
  readonly disk: number;
}

/** Whether a device has memory of its own; that of a GPU which the CPU plays is the process's. */
export function isApart({ name, software }: DeviceLimits): boolean {
  return name === "webgpu" && !software;
}

/** Bytes that are held at the same time. */
export function heldOf(device: number, host = 0, disk = 0): Held {
  return { device, host, both: device + host, disk };
}

/** Nothing in either place. */
export const NOTHING = heldOf(0);

/** What things hold that are held at the same time. */
export function together(...parts: readonly Held[]): Held {
  const all = (place: "device" | "host" | "disk") => sum(parts, (part) => part[place]);
  return heldOf(all("device"), all("host"), all("disk"));
}

/** The most that each place holds, and both together, of things that are not held at once. */
export function larger(one: Held, other: Held): Held {
  return {
    device: Math.max(one.device, other.device),
    host: Math.max(one.host, other.host),
    both: Math.max(one.both, other.both),
    disk: Math.max(one.disk, other.disk),
  };
}
