/**
 * What went wrong on the device. WebGPU reports faults late and out of band, and a command after
 * one does nothing, which would read as zeros; so every call that can fault is watched, and
 * `settle` throws the first fault before any result is handed out.
 */
import { DeviceError } from "../../errors.ts";

/** Faults of one device. */
export class Faults {
  readonly #device: GPUDevice;
  readonly #name: string;
  readonly #pending = new Set<Promise<void>>();
  #found: DeviceError[] = [];
  #lost: DeviceError | undefined;

  /** @param name What the device calls itself. */
  constructor(device: GPUDevice, name: string) {
    this.#device = device;
    this.#name = name;
    device.lost.then(({ reason, message }) => {
      this.#lost = new DeviceError(
        `The GPU "${name}" is gone (${reason}: ${message}). Open it again and repeat the work.`,
        { kind: "lost", backend: "webgpu" },
      );
    });
    device.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      this.#found.push(this.#kernelFault("work", (event as GPUUncapturedErrorEvent).error));
    });
  }

  /** Call `body` and remember what the device says about it. `doing` completes "Cannot …". */
  watch<T>(doing: string, body: () => T, { bytes }: { readonly bytes?: number } = {}): T {
    this.#device.pushErrorScope("out-of-memory");
    this.#device.pushErrorScope("validation");
    try {
      return body();
    } finally {
      this.#await(this.#device.popErrorScope(), (error) => this.#kernelFault(doing, error));
      this.#await(
        this.#device.popErrorScope(),
        (error) =>
          memoryFault(doing, {
            device: this.#name,
            ...(bytes === undefined ? {} : { bytes }),
            error,
          }),
      );
    }
  }

  /** @throws {DeviceError} of kind `lost` when the device is known to be gone. */
  check(): void {
    if (this.#lost) throw this.#lost;
  }

  /**
   * Wait for every report and throw the first fault, memory before validation: commands on a buffer
   * that could not be made fail validation too. What was thrown is forgotten, so that a caller may
   * go on with smaller slices.
   *
   * @throws {DeviceError}
   */
  async settle(): Promise<void> {
    await Promise.all(this.#pending);
    this.check();
    const found = this.#found;
    this.#found = [];
    const first = found.find(({ kind }) => kind === "memory") ?? found[0];
    if (first) throw first;
  }

  #await(report: Promise<GPUError | null>, describe: (error: GPUError) => DeviceError): void {
    const pending = report.then((error) => {
      if (error) this.#found.push(describe(error));
      this.#pending.delete(pending);
    });
    this.#pending.add(pending);
  }

  #kernelFault(doing: string, error: GPUError): DeviceError {
    return new DeviceError(
      `Cannot ${doing} on "${this.#name}": the driver refused: ${error.message.trim()}`,
      { kind: "kernel", backend: "webgpu", cause: error },
    );
  }
}

/**
 * A `memory` error. `doing` completes "Cannot …"; `error` is what the device said, if it was asked.
 */
export function memoryFault(
  doing: string,
  { device, bytes, error }: {
    readonly device: string;
    readonly bytes?: number;
    readonly error?: GPUError;
  },
): DeviceError {
  const said = error ? ` (${error.message.trim()})` : "";
  return new DeviceError(
    `Cannot ${doing} on "${device}": there is not enough memory${said}. Tell the plan how much there is: \`budgets.vram\`.`,
    { kind: "memory", backend: "webgpu", ...(bytes === undefined ? {} : { bytes }), cause: error },
  );
}
