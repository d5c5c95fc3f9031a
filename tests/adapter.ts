/**
 * The GPU that tests run on: a real one where there is one, else one that the CPU plays.
 * `SLUICE_TEST_ADAPTER=software` takes the latter in any case.
 */
import { openWebgpu, type WebgpuBackend } from "../src/backends/webgpu/mod.ts";
import { DeviceError } from "../src/errors.ts";

const CHOICE = Deno.env.get("SLUICE_TEST_ADAPTER") ?? "any";
if (!["any", "software"].includes(CHOICE)) {
  throw new RangeError(`SLUICE_TEST_ADAPTER must be "any" or "software", got "${CHOICE}"`);
}

/**
 * Open the GPU of the tests.
 *
 * @throws {DeviceError} of kind `absent` when there is none.
 */
export function openTestGpu(): Promise<WebgpuBackend> {
  return openWebgpu({ fallback: CHOICE === "software" });
}

/** Why there is no GPU for tests, if there is none; tests of it are then shown as skipped. */
export const ABSENT_GPU: string | undefined = await (async () => {
  try {
    await using _gpu = await openTestGpu();
    return undefined;
  } catch (error) {
    if (error instanceof DeviceError && error.kind === "absent") return error.message;
    throw error;
  }
})();
