/**
 * What a calibrated run costs a GPU in waits, read-backs, dispatches and bytes: these counts, not
 * times, hold what makes it fast. On a GPU a wait takes 11 ms, however little there is to wait for.
 */
import assert from "node:assert/strict";
import type { Backend } from "../src/backend.ts";
import { disk } from "../src/io/disk.ts";
import type { Phase } from "../src/trace.ts";
import { NO_TRAFFIC, type Traffic } from "../src/traffic.ts";
import { ABSENT_GPU, openTestGpu } from "./adapter.ts";
import { folder, quantize, tinyWindows, withOwn } from "./run_given.ts";
import { livelyNorms, makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

const TOKENS = 40;
const PLAIN = { method: "gptq", propagate: false, sweeps: 0 };

/** Register a test that gets a GPU and a model; shown as skipped where there is no adapter. */
function test(name: string, body: (gpu: Backend, model: string) => Promise<void>): void {
  Deno.test({
    name,
    ignore: ABSENT_GPU !== undefined,
    async fn() {
      await using gpu = await openTestGpu();
      const change = livelyNorms("bf16");
      const model = await makeCheckpoint(tinyTensors("bf16"), { config: TINY_CONFIG, change });
      await body(gpu, model);
      await Deno.remove(model, { recursive: true });
    },
  });
}

/** What each phase of the model's first block took. */
async function trafficOf(
  model: string,
  options: Record<string, unknown>,
  { backend, windows, stateBudget = 1e9 }: {
    readonly backend: Backend;
    readonly windows: number;
    readonly stateBudget?: number;
  },
): Promise<(phase: Phase) => Traffic> {
  await using into = await folder();
  const { report } = await quantize(model, { scheme: "W4A16", "group-size": 32, ...options }, {
    backend,
    into: into.path,
    calibration: {
      windows: tinyWindows(windows, TOKENS),
      stateBudget,
      spill: { disk, folder: into.path },
    },
  });
  const [block] = report.phases.blocks.filter(({ name }) => name === "model.layers.0");
  return (phase) => block!.phases[phase]?.traffic ?? NO_TRAFFIC;
}

test(
  "a block of GPTQ waits once for each stage's diagonal and factor, once for its losses and once for its bytes",
  async (gpu, model) => {
    const traffic = await trafficOf(model, PLAIN, { backend: gpu, windows: 40 });
    // Four stages, seven weights; windows never wait, and nothing of them leaves the device.
    assert.deepEqual([traffic("walk").waits, traffic("walk").downloaded], [0, 0]);
    assert.equal(traffic("other").waits, 4);
    assert.equal(traffic("solve").waits, 4);
    assert.equal(traffic("round").waits, 1);
    assert.equal(traffic("pack").waits, 1);
    for (const phase of ["walk", "solve", "round", "pack"] as const) {
      assert.equal(traffic(phase).reads, traffic(phase).waits, phase);
    }
  },
);

test(
  "a block of the default method waits for no window, and for all exponents of a stage together",
  async (gpu, model) => {
    // As many rows at once as a real GPU takes.
    const backend = withOwn(gpu, { busyRows: 8192 });
    const traffic = await trafficOf(model, {}, { backend, windows: 40 });
    assert.deepEqual([traffic("walk").waits, traffic("walk").downloaded], [0, 0]);
    // The factor that targets are moved with, and that of the rounding.
    assert.equal(traffic("solve").waits, 8);
    // Losses are told before scales are moved into a weight that was rounded, and at the end.
    assert.ok(traffic("round").waits <= 3, `${traffic("round").waits}`);
    // Tenths together, two halves together, and what scales are moved into.
    assert.ok(traffic("scales").waits <= 4 * (1 + 1 + 3), `${traffic("scales").waits}`);
    assert.equal(traffic("pack").waits, 1);
  },
);

test("windows in a stack cost the dispatches of one", async (gpu, model) => {
  const backend = withOwn(gpu, { productRows: 8 * TOKENS });
  const walk = async (windows: number) => {
    const traffic = await trafficOf(model, PLAIN, { backend, windows });
    return traffic("walk").dispatches;
  };
  const one = await walk(8);
  assert.equal(await walk(4), one);
  assert.equal(await walk(24), 3 * one);
});

test("states that go to disk wait together, not one by one", async (gpu, model) => {
  const backend = withOwn(gpu, { productRows: 1 });
  const traffic = await trafficOf(model, PLAIN, { backend, windows: 24, stateBudget: 0 });
  // All of them are less than what is worth a wait.
  assert.equal(traffic("walk").waits, 0);
});
