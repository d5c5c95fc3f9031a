/** Opening what a person names: a checkpoint by path or as `sample`, a device by name. */
import type { Backend } from "./backend.ts";
import { openWasm } from "./backends/wasm/mod.ts";
import { openWebgpu } from "./backends/webgpu/mod.ts";
import { DeviceError } from "./errors.ts";
import type { Reporter } from "./report.ts";
import type { TensorSource } from "./source.ts";
import { openCheckpoint } from "./sources/checkpoint.ts";
import { SAMPLE_MODEL } from "./sources/sample.ts";

/**
 * Open a checkpoint: a `.safetensors` file, a folder of them, or `sample`, the model that Sluice carries.
 *
 * @throws {RequestError} there is nothing of that name, or nothing that Sluice reads.
 * @throws {CheckpointError} a file is not what its format demands.
 */
export async function open(model: string | URL): Promise<TensorSource> {
  if (model === "sample") return { ...await openCheckpoint(SAMPLE_MODEL), label: "sample" };
  return await openCheckpoint(model);
}

/**
 * Open a device. `auto` takes a real GPU if there is one and the CPU otherwise; a software adapter is used only when asked for
 * (`webgpu`), and reported.
 *
 * @throws {DeviceError} of kind `absent`: `webgpu` was asked for and there is no adapter.
 */
export async function openBackend(
  device: "auto" | "webgpu" | "wasm" = "auto",
  { threads, report = () => {} }: { readonly threads?: number; readonly report?: Reporter } = {},
): Promise<Backend> {
  const cpu = () => openWasm(threads === undefined ? {} : { threads });
  if (device === "wasm") return await cpu();
  let gpu: Backend;
  try {
    gpu = await openWebgpu();
  } catch (error) {
    if (device === "webgpu" || !(error instanceof DeviceError && error.kind === "absent")) {
      throw error;
    }
    return await cpu();
  }
  if (!gpu.software) return gpu;
  if (device === "webgpu") {
    report({
      type: "warning",
      code: "software-adapter",
      message: `The WebGPU adapter "${gpu.description}" is software: --device wasm is faster.`,
    });
    return gpu;
  }
  await gpu[Symbol.asyncDispose]();
  return await cpu();
}
