/** The backends that this machine has, for tests that must hold on every one of them. */
import type { Backend } from "../src/backend.ts";
import { referenceBackend } from "../src/backends/reference.ts";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { ABSENT_GPU, openTestGpu } from "./adapter.ts";

interface Opener {
  readonly device: Backend["name"];
  readonly open: () => Backend | Promise<Backend>;
  readonly present: boolean;
}

const BACKENDS: readonly Opener[] = [
  { device: "reference", open: referenceBackend, present: true },
  { device: "wasm", open: () => openWasm({ threads: 2 }), present: true },
  { device: "webgpu", open: openTestGpu, present: ABSENT_GPU === undefined },
];

/** What was opened for the tests of a file, which share it: a device compiles its kernels once. */
const opened = new Map<Opener, Promise<Backend>>();

Deno.test.afterAll(async () => {
  for (const backend of opened.values()) await (await backend)[Symbol.asyncDispose]();
});

/**
 * Register a test of this name on every backend; where there is no GPU adapter, the test is shown
 * as skipped.
 */
export function onEveryBackend(name: string, test: (backend: Backend) => Promise<void>): void {
  for (const opener of BACKENDS) {
    Deno.test({
      name: `${name} (${opener.device})`,
      ignore: !opener.present,
      async fn() {
        await test(await opened.getOrInsertComputed(opener, async ({ open }) => await open()));
      },
    });
  }
}
