/**
 * Opening what a person names: a checkpoint by path, on the Hub, or as `sample`; a device by name.
 */
import type { Backend, DeviceLimits } from "./backend.ts";
import type { BlasChoice } from "./backends/wasm/blas.ts";
import { DeviceError, RequestError } from "./errors.ts";
import type { HubClientOptions } from "./hub/client.ts";
import { parseRepoSpec } from "./hub/repo_spec.ts";
import { disk } from "./io/disk.ts";
import type { Reporter } from "./report.ts";
import type { TensorSource } from "./source.ts";
import { openCheckpoint, type ReadOptions } from "./sources/checkpoint.ts";
import { SAMPLE_MODEL } from "./sources/sample.ts";

/** The way to the Hub, and where its files may lie for a while. */
export interface HubAccess extends HubClientOptions {
  /** Where Python programs keep what they downloaded; read, never written. */
  readonly cacheFolder?: string | undefined;
  /** A folder for weight files on their way; without it tensors are read by range, unchecked. */
  readonly stagingFolder?: string | undefined;
  /** Bytes that folder may hold. */
  readonly maxDisk?: number;
  /** Ends what is under way: opening and reading throw its reason. */
  readonly signal?: AbortSignal;
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
    const { cacheFolder, stagingFolder, maxDisk, signal, ...options } = hub;
    const { HubClient } = await import("./hub/client.ts");
    const { openHub } = await import("./sources/hub.ts");
    return await openHub(model, {
      client: new HubClient(options),
      cacheFolder,
      stagingFolder,
      signal,
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

/** How a device is opened. */
export interface DeviceOptions {
  /** CPU threads; all unless given. */
  readonly threads?: number;
  /**
   * What computes f32 products on the CPU: `auto` takes a BLAS of the system (OpenBLAS, MKL, BLIS,
   * Accelerate) where one is found and FFI is permitted, `none` Sluice's own kernels, anything else
   * is the library to open. What is found and cannot be used is reported.
   */
  readonly blas?: BlasChoice;
  /** Hold a part of what a GPU computes against the definitions (backends/spot_checks.ts): true. */
  readonly checkDevice?: boolean;
  readonly report?: Reporter;
}

/** A device that was found. What was opened is closed when it is disposed of. */
export interface FoundDevice extends AsyncDisposable {
  /** What a plan depends on. */
  readonly limits: DeviceLimits;
  /** Open it, or give what is open already. */
  open(): Promise<Backend>;
}

/**
 * Find a device to plan for. `auto` takes a real GPU if there is one and the CPU otherwise; a
 * software adapter is used only when asked for (`webgpu`), and reported. A GPU is open then, and a
 * BLAS that was asked for too; the CPU's threads, and a BLAS that must be looked for, wait for
 * `open`. Where a GPU is checked, `read` and `finish` may throw a `DeviceError` of kind `wrong`.
 *
 * @throws {RequestError} a GPU was asked for, and what is of the CPU alone.
 * @throws {DeviceError} of kind `absent`: `webgpu` was asked for and there is no adapter, or a BLAS
 * that cannot be opened.
 */
export async function findDevice(
  device: "auto" | "webgpu" | "wasm" = "auto",
  options: DeviceOptions = {},
): Promise<FoundDevice> {
  const unused = (["threads", "blas"] as const).find((name) => options[name] !== undefined);
  if (device === "webgpu" && unused !== undefined) {
    throw new RequestError(
      `Cannot use \`${unused}\` with \`device\` webgpu: it says how the CPU computes. ` +
        "Leave one of them out.",
    );
  }
  const gpu = device === "wasm" ? undefined : await openGpu(device, options);
  if (gpu) return opened(gpu);
  const { blas = "auto", threads = navigator.hardwareConcurrency } = options;
  if (blas !== "auto" && blas !== "none") return opened(await openCpu(options));
  const { CpuLimits } = await import("./backends/wasm/limits.ts");
  let cpu: Promise<Backend> | undefined;
  return {
    limits: new CpuLimits(threads),
    open: () => cpu ??= openCpu(options),
    [Symbol.asyncDispose]: async () => await (await cpu)?.[Symbol.asyncDispose](),
  };
}

/**
 * Open a device: what {@linkcode findDevice} finds.
 *
 * @throws what `findDevice` throws.
 */
export async function openBackend(
  device: "auto" | "webgpu" | "wasm" = "auto",
  options: DeviceOptions = {},
): Promise<Backend> {
  return await (await findDevice(device, options)).open();
}

function opened(backend: Backend): FoundDevice {
  return {
    limits: backend,
    open: () => Promise.resolve(backend),
    [Symbol.asyncDispose]: () => backend[Symbol.asyncDispose](),
  };
}

/** The GPU; undefined where `auto` finds none that is real. */
async function openGpu(
  device: "auto" | "webgpu",
  { checkDevice = true, report }: DeviceOptions,
): Promise<Backend | undefined> {
  const { openWebgpu } = await import("./backends/webgpu/mod.ts");
  const auto = device === "auto";
  try {
    const gpu = await openWebgpu({ real: auto });
    if (gpu.software) {
      report?.({
        type: "warning",
        code: "software-adapter",
        message: `The WebGPU adapter "${gpu.description}" is software: \`device\` wasm is faster.`,
      });
    }
    if (!checkDevice) return gpu;
    const { withSpotChecks } = await import("./backends/spot_checks.ts");
    return withSpotChecks(gpu);
  } catch (error) {
    if (auto && error instanceof DeviceError && error.kind === "absent") return undefined;
    throw error;
  }
}

async function openCpu({ threads, blas = "auto", report }: DeviceOptions): Promise<Backend> {
  const { openWasm } = await import("./backends/wasm/mod.ts");
  return await openWasm({
    blas,
    passed: ({ library, reason }) =>
      report?.({
        type: "warning",
        code: "blas",
        message: `The BLAS ${library} is not used: ${reason}.`,
      }),
    ...(threads === undefined ? {} : { threads }),
  });
}
