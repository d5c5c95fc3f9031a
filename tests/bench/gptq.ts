/**
 * Calibrated quantization of a model against llm-compressor's GPTQ, in turns on the same threads,
 * windows and bits; what ours spends its time on; and how far it is from the multiply-adds in it.
 * Needs a model and a Python environment:
 *
 *   SLUICE_BENCH_MODEL    a folder with a Llama (SmolLM2-135M)
 *   SLUICE_BENCH_PYTHON   a Python that has llmcompressor; without it only Sluice runs
 *   SLUICE_BENCH_TURNS    [1]
 */
import { availableParallelism } from "node:os";
import { join } from "node:path";
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
import type { PreparedWindows } from "../../src/evaluate.ts";
import { multiply } from "../../src/ops/gemm.ts";
import { median, type Ratio } from "./measure.ts";
import { counting } from "./multiply_adds.ts";

const PEER = new URL("./llm_compressor_gptq.py", import.meta.url).pathname;
const CORPUS = new URL("../../sample/corpus/calibration.txt", import.meta.url).pathname;

/** What ours is compared in: as much as llm-compressor's does, and all that there is. */
const OURS = {
  "GPTQ alone": {
    method: "gptq",
    propagate: false,
    "unsigned-scales": true,
    scale: "minmax",
    sweeps: 0,
  },
  "the default, AWQ with GPTQ and propagation": {},
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
  const { success, stdout, stderr } = await new Deno.Command(python, {
    args: [PEER, model, windows, String(threads)],
    env: { HF_HUB_OFFLINE: "1", TQDM_DISABLE: "1", OMP_NUM_THREADS: String(threads) },
  }).output();
  const line = new TextDecoder().decode(stdout).trim().split("\n").at(-1) ?? "";
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return (JSON.parse(line) as { seconds: number }).seconds;
}

/** Run it. */
export async function run(): Promise<Ratio[]> {
  const model = Deno.env.get("SLUICE_BENCH_MODEL");
  if (!model) {
    return [{ what: "not run: SLUICE_BENCH_MODEL names no model", ratio: NaN, detail: "" }];
  }
  const python = Deno.env.get("SLUICE_BENCH_PYTHON");
  const turns = Number(Deno.env.get("SLUICE_BENCH_TURNS") ?? 1);
  const threads = availableParallelism();
  const folder = await Deno.makeTempDir();
  try {
    await using device = await openBackend("wasm", { threads });
    await using source = await open(model);
    const calibration = await prepareCalibration(source, {
      corpus: CORPUS,
      seqLen: 512,
      numSamples: 64,
    });
    const windows = join(folder, "windows.json");
    const lists = calibration.windows.map((window) => [...window]);
    await Deno.writeTextFile(windows, JSON.stringify({ windows: lists }));
    const size = (source.config as { hidden_size: number }).hidden_size;
    const made = new Map<string, Turn[]>(Object.keys(OURS).map((name) => [name, []]));
    const peers: number[] = [];
    const rates: number[] = [];
    for (let turn = 0; turn < turns; turn++) {
      for (const [name, options] of Object.entries(OURS)) {
        rates.push(await productRate(device, size, 512));
        made.get(name)!.push(await ours(model, options, { calibration, folder, device }));
      }
      rates.push(await productRate(device, size, 512));
      if (python) peers.push(await theirs(python, { model, windows, threads }));
    }
    const rate = median(rates);
    return [...made].flatMap(([name, turns]) => {
      const seconds = median(turns.map(({ seconds }) => seconds));
      const { products, report } = turns[0]!;
      const phases = Object.entries(report.phases.total)
        .map(([phase, use]) => `${phase} ${use.seconds.toFixed(1)}`).join(", ");
      const work = products / rate;
      const ratios: Ratio[] = [{
        what: `${name}: time / time of its products`,
        ratio: seconds / work,
        detail: `${seconds.toFixed(0)} s on ${threads} threads, of ${
          (2 * products / 1e12).toFixed(2)
        } TFLOP at ${(2 * rate / 1e9).toFixed(0)} GFLOP/s; ${phases}`,
      }];
      if (peers.length > 0) {
        ratios.push({
          what: `${name}: llm-compressor's GPTQ's time / time`,
          ratio: median(peers) / seconds,
          detail: `llm-compressor ${median(peers).toFixed(0)} s`,
        });
      }
      return ratios;
    });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
