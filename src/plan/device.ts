/** Whether a device can compute at all what runs compute, asked before anything is read. */
import type { DeviceLimits } from "../backend.ts";
import { UnsupportedError } from "../errors.ts";
import { OPS } from "../ops/mod.ts";

/**
 * Check that a device has a kernel for every op.
 *
 * @throws {UnsupportedError} it lacks one; the sentence says why.
 */
export function checkOps(device: Pick<DeviceLimits, "name" | "supports">): void {
  for (const op of OPS) {
    const able = device.supports(op);
    if (able === true) continue;
    throw new UnsupportedError(`Cannot use ${device.name}: ${able}. Use another \`device\`.`, {
      what: device.name,
      reason: able,
    });
  }
}
