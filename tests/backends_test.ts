/** Every backend does what the definitions of the ops say. */
import type { Backend } from "../src/backend.ts";
import { referenceBackend } from "../src/backends/reference.ts";
import { DeviceError } from "../src/errors.ts";
import { testBackend } from "./conformance/backend.ts";

/** Open a device, or say why this machine has none: a missing adapter is a skip, anything else a failure. */
async function orAbsent(open: () => Promise<Backend>): Promise<Backend | string> {
  try {
    return await open();
  } catch (error) {
    if (error instanceof DeviceError && error.kind === "absent") return error.message;
    throw error;
  }
}

await testBackend("reference", () => Promise.resolve(referenceBackend()));

await testBackend("wasm", async () => {
  const { openWasm } = await import("../src/backends/wasm/mod.ts");
  return await orAbsent(() => openWasm());
});

await testBackend("webgpu", async () => {
  const { openWebgpu } = await import("../src/backends/webgpu/mod.ts");
  return await orAbsent(() => openWebgpu({ fallback: true }));
});
