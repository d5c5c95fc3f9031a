/** Every backend does what the definitions of the ops say. */
import { referenceBackend } from "../src/backends/reference.ts";
import { ABSENT_GPU, openTestGpu } from "./adapter.ts";
import { testBackend } from "./conformance/backend.ts";

await testBackend("reference", () => Promise.resolve(referenceBackend()));

await testBackend("wasm", async () => {
  const { openWasm } = await import("../src/backends/wasm/mod.ts");
  return await openWasm();
});

await testBackend("webgpu", async () => ABSENT_GPU ?? await openTestGpu());
