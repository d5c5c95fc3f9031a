/**
 * A Llama of two blocks some of whose channels are as loud as those of real models, quantized with
 * calibration.
 */
import type { Backend } from "../src/backend.ts";
import { bytesFrom, floatsFrom } from "../src/number.ts";
import type { TensorSource } from "../src/source.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { folder, type Made, quantize, tinyWindows } from "./run_given.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

/** Windows to calibrate on. */
export const CALIBRATION = { windows: tinyWindows(6, 20), stateBudget: 1e9 };

/** Windows to measure on: others. */
export const EVALUATION = { windows: tinyWindows(9, 16).slice(6), stateBudget: 1e9 };

/**
 * The model, in a folder that is gone in the end: its norms make channels 3 and 40 loud, and those
 * from 44 on as `quiet` as is said.
 */
export async function loudLlama(
  dtype: "f32" | "bf16" = "f32",
  { quiet = 1 } = {},
): Promise<AsyncDisposable & { readonly path: string }> {
  const path = await makeCheckpoint(tinyTensors(dtype), {
    config: { ...TINY_CONFIG, torch_dtype: dtype === "f32" ? "float32" : "bfloat16" },
    change(name, bytes) {
      if (!name.endsWith("layernorm.weight")) return;
      const values = floatsFrom(dtype, bytes)
        .map((value, c) => (c === 3 ? 30 : c === 40 ? 12 : c >= 44 ? quiet : 1) * (1 + value));
      bytes.set(bytesFrom(dtype, values));
    },
  });
  return { path, [Symbol.asyncDispose]: () => Deno.remove(path, { recursive: true }) };
}

/** What a run made, opened; gone in the end. */
export interface Opened extends Made, AsyncDisposable {
  readonly output: TensorSource;
}

/** Quantize a model with calibration, and measure it. */
export async function quantizeLoud(
  model: string,
  options: Record<string, unknown>,
  backend: Backend,
): Promise<Opened> {
  const into = await folder();
  const given = { backend, into: into.path, calibration: CALIBRATION, evaluation: EVALUATION };
  const made = await quantize(model, options, given);
  const output = await openCheckpoint(made.out);
  return {
    ...made,
    output,
    async [Symbol.asyncDispose]() {
      await output[Symbol.asyncDispose]();
      await into[Symbol.asyncDispose]();
    },
  };
}

/** A stored tensor of floats as numbers. */
export async function floatsOf(source: TensorSource, name: string): Promise<Float32Array> {
  return floatsFrom(source.tensors.get(name)!.dtype as "f32", await source.read(name));
}
