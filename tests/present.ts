/** The backends that this machine has, for tests that must hold on every one of them. */
import type { Backend } from "../src/backend.ts";
import { referenceBackend } from "../src/backends/reference.ts";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { openWebgpu } from "../src/backends/webgpu/mod.ts";
import { DeviceError } from "../src/errors.ts";

type Open = () => Backend | Promise<Backend>;

const OPENERS: readonly { readonly device: Backend["name"]; readonly open: Open }[] = [
  { device: "reference", open: referenceBackend },
  { device: "wasm", open: () => openWasm({ threads: 2 }) },
  { device: "webgpu", open: openWebgpu },
];

const BACKENDS = await Promise.all(
  OPENERS.map(async ({ device, open }) => ({ device, open, present: await isPresent(open) })),
);

/** Register a test of this name on every backend; where there is no GPU adapter, the test is shown as skipped. */
export function onEveryBackend(name: string, test: (backend: Backend) => Promise<void>): void {
  for (const { device, open, present } of BACKENDS) {
    Deno.test({
      name: `${name} (${device})`,
      ignore: !present,
      async fn() {
        await using backend = await open();
        await test(backend);
      },
    });
  }
}

async function isPresent(open: Open): Promise<boolean> {
  try {
    await using _backend = await open();
    return true;
  } catch (error) {
    if (error instanceof DeviceError && error.kind === "absent") return false;
    throw error;
  }
}
