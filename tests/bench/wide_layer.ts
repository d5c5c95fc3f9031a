/**
 * GPTQ for a layer with 14336 inputs (the down projections of Llama 8B) where a kernel binds 128
 * MiB at most, as WebGPU guarantees: its Gram matrix of 822 MB is seven panels. What is rounded is
 * checked by what makes it GPTQ, solving with the damped Gram matrix; the time is held against that
 * of the multiply-adds in it. SLUICE_BENCH_DEVICE names another device than the CPU,
 * SLUICE_BENCH_CHANNELS another number of inputs.
 */
import assert from "node:assert/strict";
import { availableParallelism } from "node:os";
import { resourceUsage } from "node:process";
import type { Backend, Tensor } from "../../src/backend.ts";
import { openBackend } from "../../src/open.ts";
import { isSound, makeFactor } from "../../src/linalg/factor.ts";
import { gptq } from "../../src/methods/gptq.ts";
import { multiply } from "../../src/ops/gemm.ts";
import { Statistics } from "../../src/observer.ts";
import { gram } from "../../src/observers/gram.ts";
import { Pace } from "../../src/pace.ts";
import { multiplyByPanels, multiplyByTransposed } from "../../src/linalg/panels.ts";
import { gaussian } from "../conformance/given.ts";
import { withOwn } from "../run_given.ts";
import { blasHere, cpuName, openPresent } from "./environment.ts";
import { flopRate, type Ratio, type Skipped } from "./measure.ts";

const CHANNELS = Number(Deno.env.get("SLUICE_BENCH_CHANNELS") ?? 14336);
const DEVICE = Deno.env.get("SLUICE_BENCH_DEVICE") ?? "wasm";
const BINDING = 128 * 2 ** 20;
const [TOKENS, ROWS, DAMPING] = [512, 64, 0.01] as const;

function upload(values: Float32Array<ArrayBuffer>, columns: number, backend: Backend): Tensor {
  const tensor = backend.alloc("f32", [values.length / columns, columns]);
  backend.write(tensor, new Uint8Array(values.buffer));
  return tensor;
}

/** Multiply-adds a second of a large product. */
async function gemmRate(backend: Backend): Promise<number> {
  const n = 1024;
  const [a, b] = [1, 2].map((seed) => upload(gaussian(n * n, seed), n, backend)) as [
    Tensor,
    Tensor,
  ];
  const c = backend.alloc("f32", [n, n]);
  const times = [];
  for (let turn = 0; turn < 6; turn++) {
    const begun = performance.now();
    for (let i = 0; i < 4; i++) {
      multiply(backend, { a: { tensor: a }, b: { tensor: b }, c: { tensor: c } }, {
        m: n,
        n,
        k: n,
      });
    }
    await backend.finish();
    times.push((performance.now() - begun) / 1000);
  }
  return 4 * n ** 3 / Math.min(...times);
}

/** Run it. */
export async function run(): Promise<(Ratio | Skipped)[]> {
  if (DEVICE !== "wasm" && DEVICE !== "webgpu") {
    throw new RangeError(`SLUICE_BENCH_DEVICE is wasm or webgpu, not "${DEVICE}"`);
  }
  const found = await openPresent(() => openBackend(DEVICE));
  if ("skipped" in found) return [{ skipped: `GPTQ of a wide layer. ${found.skipped}` }];
  await using device = found;
  const backend = withOwn(device, { maxTensorBytes: BINDING });
  const rate = await gemmRate(backend);
  using scope = backend.scope();
  const values = gaussian(TOKENS * CHANNELS, 3);
  const x = upload(values, CHANNELS, backend);

  const begun = performance.now();
  const observation = gram.open({ channels: CHANNELS, tokens: TOKENS, scope });
  await observation.add(x);
  const sums = await observation.finish();
  await backend.finish();
  const observed = performance.now();
  const statistics = new Statistics(new Map([[gram, sums]]), {
    channels: CHANNELS,
    tokens: TOKENS,
  });
  const weight = upload(gaussian(ROWS * CHANNELS, 4, 0.02), CHANNELS, backend);
  const rounder = await gptq.open({
    names: ["down_proj"],
    scheme: {
      kind: "int",
      bits: 4,
      grid: "affine",
      strategy: { kind: "group", size: 128 },
      scaleDType: "bf16",
      activations: "none",
    },
    options: { damping: DAMPING },
    statistics,
    scope,
    report: () => {},
  });
  const opened = performance.now();
  const { loss } = await rounder.round({ weight, scope });
  const [losses] = await backend.read(loss!);
  const seconds = (performance.now() - begun) / 1000;
  const mean = new Float32Array(losses!.buffer).reduce((sum, value) => sum + value) / ROWS;
  assert.ok(mean > 0 && Number.isFinite(mean) && rounder.remarks.fallback === undefined);

  const residual = await solvingError(values, { sums, backend });
  assert.ok(residual < 1e-3, `solving leaves ${residual} of the right side`);

  // Half of tokens × C² for the sums; C³/6 for the factor and as much for its inverse; rows × C²/2
  // to spread errors.
  const work = TOKENS * CHANNELS ** 2 / 2 + CHANNELS ** 3 / 3 + ROWS * CHANNELS ** 2 / 2;
  const spent = (from: number, to: number) => `${((to - from) / 1000).toFixed(1)} s`;
  return [{
    what: `GPTQ of a layer with ${CHANNELS} inputs, panels: ${sums.panels.length}`,
    ours: `${seconds.toFixed(1)} s`,
    against: `its products, ${flopRate(2 * rate)}: ${(work / rate).toFixed(1)} s`,
    ratio: work / rate / seconds,
    device: DEVICE === "wasm" ? cpuName(availableParallelism(), blasHere()) : device.description,
    detail: `sums of ${TOKENS} tokens took ${spent(begun, observed)}, the factor ${
      spent(observed, opened)
    }; solving with it leaves ${residual.toExponential(1)} of the right side; peak memory ${
      (resourceUsage().maxRSS * 1024 / 1e9).toFixed(2)
    } GB`,
  }];
}

/** ‖(H + λI)·u − b‖ / ‖b‖ for u = V·Vᵀ·b, with H·u from the inputs themselves in float64. */
async function solvingError(
  values: Float32Array,
  { sums, backend }: {
    sums: Awaited<ReturnType<ReturnType<typeof gram.open>["finish"]>>;
    backend: Backend;
  },
): Promise<number> {
  using scope = backend.scope();
  const mean = sums.diagonal.reduce((sum, value) => sum + value, 0) / CHANNELS;
  const order = Uint32Array.from({ length: CHANNELS }, (_, i) => i);
  const lambda = DAMPING * mean;
  const factor = await makeFactor(sums, { scope, order, damping: lambda });
  assert.ok(await isSound(factor, backend));
  const b = gaussian(CHANNELS, 5);
  const right = upload(b, CHANNELS, backend);
  const [half, solved] = [0, 1].map(() => scope.alloc("f32", [1, CHANNELS])) as [Tensor, Tensor];
  const pace = new Pace(backend);
  await multiplyByPanels(right, factor.v, half, { backend, pace });
  await multiplyByTransposed(half, factor.v, solved, { backend, pace });
  const [bytes] = await backend.read(solved);
  const u = new Float32Array(bytes!.buffer);
  const left = Float64Array.from(u, (value) => lambda * value);
  for (let t = 0; t < TOKENS; t++) {
    let dot = 0;
    for (let c = 0; c < CHANNELS; c++) dot += values[t * CHANNELS + c]! * u[c]!;
    for (let c = 0; c < CHANNELS; c++) left[c]! += dot * values[t * CHANNELS + c]!;
  }
  const [error, size] = [left.map((value, c) => value - b[c]!), b].map((v) => Math.hypot(...v));
  return error! / size!;
}
