/**
 * Opening what a person names: a checkpoint by path, on the Hub, or as `sample`; a device by name.
 */
import type { Backend } from "./backend.ts";
import type { BlasChoice, Passed } from "./backends/wasm/blas.ts";
import { openWasm } from "./backends/wasm/mod.ts";
import { openWebgpu } from "./backends/webgpu/mod.ts";
import { DeviceError } from "./errors.ts";
import { HubClient, type HubClientOptions } from "./hub/client.ts";
import { parseRepoSpec } from "./hub/repo_spec.ts";
import { disk } from "./io/disk.ts";
import type { Reporter } from "./report.ts";
import type { TensorSource } from "./source.ts";
import { openCheckpoint, type ReadOptions } from "./sources/checkpoint.ts";
import { openHub } from "./sources/hub.ts";
import { SAMPLE_MODEL } from "./sources/sample.ts";

/** The way to the Hub, and where its files may lie for a while. */
export interface HubAccess extends HubClientOptions {
  /** Where Python programs keep what they downloaded; read, never written. */
  readonly cacheFolder?: string | undefined;
  /** A folder for weight files on their way; without it tensors are read by range, unchecked. */
  readonly stagingFolder?: string | undefined;
  /** Bytes that folder may hold. */
  readonly maxDisk?: number;
}

/**
 * Open a checkpoint: a `.safetensors` file, a folder of them, `sample` (the model that Sluice
 * carries), or, with access to the Hub, `org/name`, `org/name@revision` or its address there. What
 * is there as a path is never looked for on the Hub.
 *
 * @throws {RequestError} there is nothing of that name, or nothing that Sluice reads.
 * @throws {CheckpointError} a file is not what its format demands.
 * @throws {HubError} the repository cannot be reached, or may not be read.
 */
export async function open(
  model: string | URL,
  { hub, ...reading }: { readonly hub?: HubAccess } & ReadOptions = {},
): Promise<TensorSource> {
  if (model === "sample") {
    return { ...await openCheckpoint(SAMPLE_MODEL, reading), label: "sample" };
  }
  if (hub && typeof model === "string" && isOnHub(model) && !await disk.stat(model)) {
    const { cacheFolder, stagingFolder, maxDisk, ...options } = hub;
    return await openHub(model, {
      client: new HubClient(options),
      cacheFolder,
      stagingFolder,
      ...reading,
      ...(maxDisk === undefined ? {} : { maxDisk }),
      ...(hub.report ? { report: hub.report } : {}),
    });
  }
  return await openCheckpoint(model, reading);
}

/**
 * Whether a name can be of a repository: `org/name`. A single word is taken for a path, so that a
 * slip of the pen asks nobody.
 */
export function isOnHub(model: string): boolean {
  return model.includes("/") && parseRepoSpec(model) !== undefined;
}

/**
 * Open a device. `auto` takes a real GPU if there is one and the CPU otherwise; a software adapter
 * is used only when asked for (`webgpu`), and reported.
 *
 * @param options.threads CPU threads; all unless given.
 * @param options.blas What computes f32 products on the CPU: `auto` takes a BLAS of the system
 * (OpenBLAS, MKL, BLIS, Accelerate) where one is found and FFI is permitted, `none` Sluice's own
 * kernels, anything else is the library to open. What is found and cannot be used is reported.
 * @throws {DeviceError} of kind `absent`: `webgpu` was asked for and there is no adapter, or a BLAS
 * that cannot be opened.
 */
export async function openBackend(
  device: "auto" | "webgpu" | "wasm" = "auto",
  { threads, blas = "auto", report = () => {} }: {
    readonly threads?: number;
    readonly blas?: BlasChoice;
    readonly report?: Reporter;
  } = {},
): Promise<Backend> {
  const passed = ({ library, reason }: Passed) =>
    report({
      type: "warning",
      code: "blas",
      message: `The BLAS ${library} is not used: ${reason}.`,
    });
  const cpu = () => openWasm({ blas, passed, ...(threads === undefined ? {} : { threads }) });
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
      message: `The WebGPU adapter "${gpu.description}" is software: \`device\` wasm is faster.`,
    });
    return gpu;
  }
  await gpu[Symbol.asyncDispose]();
  return await cpu();
}
