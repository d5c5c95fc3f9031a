/** Where large matrices lie while a block is calibrated: as its plan has it. */
import type { Plan } from "../plan/planned.ts";
import type { SharedOptions } from "./context.ts";

/**
 * Have the device keep matrices where a plan has them, until the result is disposed of.
 *
 * @throws {RangeError} some lie on disk, and there is no folder for them.
 */
export function placeMatrices(
  { matrixPlaces, memory }: Pick<Plan, "matrixPlaces" | "memory">,
  { backend, calibration }: Pick<SharedOptions, "backend" | "calibration">,
): Disposable | undefined {
  if (!matrixPlaces) return undefined;
  const spill = calibration?.spill;
  if (memory.disk > 0 && !spill) {
    throw new RangeError(
      "Cannot run the plan: some matrices of the calibration do not stay in memory; give a folder " +
        "for them (`spill`).",
    );
  }
  return backend.placeMatrices?.(
    matrixPlaces,
    spill &&
      ((bytes) =>
        spill.disk.openScratch(`${spill.folder}/matrix-${crypto.randomUUID()}.f32`, bytes)),
  );
}
