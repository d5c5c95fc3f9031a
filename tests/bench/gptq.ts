/**
 * Calibrated quantization of a model against llm-compressor's GPTQ, in turns on the same threads,
 * windows and bits; what ours spends its time on; and how far it is from the multiply-adds in it.
 */
import { availableParallelism } from "node:os";
import { basename, join } from "node:path";
import {
  type Backend,
  open,
  openBackend,
  openFolderSink,
  plan,
  prepareCalibration,
  recipeFromOptions,
  requestOf,
  run as runPlan,
  type RunReport,
} from "../../mod.ts";
import type { PreparedWindows } from "../../src/windows.ts";
import { multiply } from "../../src/ops/gemm.ts";
import { blasHere, cpuName, findModel, findPython, runScript } from "./environment.ts";
import { flopRate, median, type Ratio, type Skipped } from "./measure.ts";
import { counting } from "./multiply_adds.ts";

const CORPUS = new URL("../../sample/corpus/calibration.txt", import.meta.url).pathname;

const [WINDOWS, SEQ_LEN] = [64, 512];

/**
 * What ours is compared in: as much as llm-compressor's does, and all that there is. Goals with a
 * BLAS, and with Sluice's own kernels.
 */
const OURS = {
  "GPTQ alone": {
    options: {
      method: "gptq",
      propagate: false,
      "unsigned-scales": true,
      scale: "minmax",
      sweeps: 0,
    },
    goals: { blas: 2.5, own: 0.88 },
  },
  "AWQ, GPTQ, propagation (default)": { options: {}, goals: { blas: 1.1, own: 0.4 } },
} as const;

interface Turn {
  readonly seconds: number;
  /** Multiply-adds in products. */
  readonly products: number;
  readonly report: RunReport;
}

/**
 * Multiply-adds a second of products of the model's own sizes: a window through a square weight.
 */
async function productRate(backend: Backend, size: number, tokens: number): Promise<number> {
  using scope = backend.scope();
  const tensor = (rows: number) => {
    const made = scope.alloc("f32", [rows, size]);
    const values = Float32Array.from({ length: rows * size }, (_, i) => Math.sin(i));
    backend.write(made, new Uint8Array(values.buffer));
    return { tensor: made };
  };
  const [a, b, c] = [tensor(tokens), tensor(size), tensor(tokens)];
  const times: number[] = [];
  for (let turn = 0; turn < 9; turn++) {
    const begun = performance.now();
    for (let i = 0; i < 8; i++) multiply(backend, { a, b, c }, { m: tokens, n: size, k: size });
    await backend.finish();
    times.push((performance.now() - begun) / 1000);
  }
  return 8 * tokens * size * size / median(times);
}

async function ours(
  model: string,
  options: Readonly<Record<string, unknown>>,
  { calibration, folder, device }: {
    calibration: PreparedWindows;
    folder: string;
    device: Backend;
  },
): Promise<Turn> {
  await using source = await open(model);
  const { backend, taken } = counting(device);
  const work = plan(
    recipeFromOptions({ scheme: "W4A16", "group-size": 64, ...options }),
    source,
    { device: backend, calibration: requestOf(calibration) },
  );
  const out = join(folder, `out-${crypto.randomUUID()}`);
  await using sink = await openFolderSink(out);
  const report = await runPlan(work, { source, backend, sink, calibration });
  await Deno.remove(out, { recursive: true });
  return { seconds: report.seconds, products: taken(), report };
}

async function theirs(
  python: string,
  { model, windows, threads }: { model: string; windows: string; threads: number },
): Promise<number> {
  const result = await runScript(python, "llm_compressor_gptq.py", [model, windows, `${threads}`]);
  return (result as { readonly seconds: number }).seconds;
}

/** Run it. */
export async function run(turns = 1): Promise<(Ratio | Skipped)[]> {
  const given = await findModel();
  if ("skipped" in given) return [{ skipped: `gptq. ${given.skipped}` }];
  const { model } = given;
  const found = await findPython("torch", "llmcompressor");
  const threads = availableParallelism();
  const library = blasHere();
  const folder = await Deno.makeTempDir();
  try {
    await using device = await openBackend("wasm", { threads });
    await using source = await open(model);
    const calibration = await prepareCalibration(source, {
      corpus: CORPUS,
      seqLen: SEQ_LEN,
      numSamples: WINDOWS,
    });
    const windows = join(folder, "windows.json");
    const lists = calibration.windows.map((window) => [...window]);
    await Deno.writeTextFile(windows, JSON.stringify({ windows: lists }));
    const size = (source.config as { hidden_size: number }).hidden_size;
    const made = new Map<string, Turn[]>(Object.keys(OURS).map((name) => [name, []]));
    const peers: number[] = [];
    const rates: number[] = [];
    for (let turn = 0; turn < turns; turn++) {
      for (const [name, { options }] of Object.entries(OURS)) {
        rates.push(await productRate(device, size, SEQ_LEN));
        made.get(name)!.push(await ours(model, options, { calibration, folder, device }));
      }
      rates.push(await productRate(device, size, SEQ_LEN));
      if ("python" in found) peers.push(await theirs(found.python, { model, windows, threads }));
    }
    const rate = median(rates);
    const rows = Object.entries(OURS).flatMap(([name, { goals }]): Ratio[] => {
      const turns = made.get(name)!;
      const seconds = median(turns.map(({ seconds }) => seconds));
      const { products, report } = turns[0]!;
      const phases = Object.entries(report.phases.total)
        .map(([phase, { seconds }]) => `${phase} ${seconds.toFixed(1)} s`).join(", ");
      const row = {
        what: `${name}, of ${basename(model)}, ${calibration.windows.length} × ${SEQ_LEN} tokens`,
        ours: `${seconds.toFixed(1)} s`,
        device: cpuName(threads, library),
      };
      const work = products / rate;
      const limit = `its ${(2 * products / 1e12).toFixed(2)} TFLOP of products, ${
        flopRate(2 * rate)
      }`;
      const rival = median(peers);
      return [
        {
          ...row,
          against: `${limit}: ${work.toFixed(1)} s`,
          ratio: work / seconds,
          detail: `${name}: ${phases}`,
        },
        ...(peers.length > 0
          ? [{
            ...row,
            against: `llm-compressor's GPTQ: ${rival.toFixed(1)} s`,
            ratio: rival / seconds,
            goal: library ? goals.blas : goals.own,
          }]
          : []),
      ];
    });
    return "python" in found
      ? rows
      : [...rows, { skipped: `llm-compressor's GPTQ. ${found.skipped}` }];
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
