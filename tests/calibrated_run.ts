/** Whole runs with calibration on a Llama of two blocks, some channels of which are as large as real models have them. */
import { join } from "node:path";
import type { Backend } from "../src/backend.ts";
import { floatsFrom } from "../src/number.ts";
import { type Plan, plan } from "../src/plan.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import { run, type RunReport } from "../src/run.ts";
import { openFolderSink } from "../src/sinks/folder.ts";
import type { TensorSource } from "../src/source.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

/** Tokens to calibrate on. */
export const CALIBRATION = windows(6, 20, 1);

/** Tokens to measure on: others. */
export const EVALUATION = windows(3, 16, 2);

/** Windows of tokens of the tiny model's vocabulary, the same every time. */
export function windows(count: number, length: number, seed: number): Uint32Array<ArrayBuffer>[] {
  let state = seed;
  const next = () => (state = Math.imul(state, 1664525) + 1013904223 >>> 0) / 2 ** 32;
  return Array.from(
    { length: count },
    () => Uint32Array.from({ length }, () => Math.floor(next() * TINY_CONFIG.vocab_size)),
  );
}

/** A tiny Llama whose norms make channels 3 and 40 large, in a folder that is gone in the end. */
export async function tinyLlama(
  dtype: "f32" | "bf16" = "f32",
): Promise<AsyncDisposable & { readonly path: string }> {
  const path = await makeCheckpoint(tinyTensors(dtype), {
    config: { ...TINY_CONFIG, torch_dtype: dtype === "f32" ? "float32" : "bfloat16" },
    change(name, bytes) {
      if (!name.endsWith("layernorm.weight")) return;
      const values = dtype === "f32" ? new Float32Array(bytes.buffer) : floatsFrom(dtype, bytes);
      values.forEach((value, c) => values[c] = (c === 3 ? 30 : c === 40 ? 12 : 1) * (1 + value));
      if (dtype === "f32") return;
      const halves = new Uint16Array(values.buffer);
      new Uint16Array(bytes.buffer).set(Uint16Array.from(values, (_, i) => halves[2 * i + 1]!));
    },
  });
  return { path, [Symbol.asyncDispose]: () => Deno.remove(path, { recursive: true }) };
}

/** What came of a run. */
export interface Quantized extends AsyncDisposable {
  readonly plan: Plan;
  readonly report: RunReport;
  readonly path: string;
  /** The checkpoint that was written. */
  readonly output: TensorSource;
}

/** Plan and run by options of a recipe, calibrated and measured. */
export async function quantizeTiny(
  model: string,
  options: Readonly<Record<string, unknown>>,
  backend: Backend,
): Promise<Quantized> {
  const path = join(await Deno.makeTempDir(), "out");
  await using source = await openCheckpoint(model);
  const request = (windows: readonly Uint32Array[]) => ({
    seqLen: windows[0]!.length,
    windows: windows.length,
    stateBudget: 1e9,
  });
  const work = plan(recipeFromOptions(options), source, {
    device: backend,
    calibration: request(CALIBRATION),
    evaluation: request(EVALUATION),
  });
  const report = await (async () => {
    await using sink = await openFolderSink(path);
    return await run(work, {
      source,
      backend,
      sink,
      metrics: true,
      calibration: { windows: CALIBRATION, stateBudget: 1e9 },
      evaluation: { windows: EVALUATION, stateBudget: 1e9 },
    });
  })();
  const output = await openCheckpoint(path);
  return {
    plan: work,
    report,
    path,
    output,
    async [Symbol.asyncDispose]() {
      await output[Symbol.asyncDispose]();
      await Deno.remove(join(path, ".."), { recursive: true });
    },
  };
}

/** A stored tensor of floats as numbers. */
export async function floatsOf(source: TensorSource, name: string): Promise<Float32Array> {
  return floatsFrom(source.tensors.get(name)!.dtype as "f32", await source.read(name));
}
