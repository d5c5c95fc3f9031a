/**
 * Ops as WGSL on a GPU. Work is queued and goes in batches (batch.ts); only `read` and `finish`
 * wait, and they throw what went wrong on the way (faults.ts). Nothing here knows what the ops
 * compute.
 */
import { setImmediate } from "node:timers/promises";
import { type Backend, makeScope, type Scope, type Tensor } from "../../backend.ts";
import { DeviceError } from "../../errors.ts";
import { POOL_BYTES } from "../../limits.ts";
import {
  argumentsOf,
  bindDims,
  chosenVariant,
  defineOp,
  deviceBytes,
  type DeviceDType,
  type Op,
  type Scalars,
} from "../../op.ts";
import { size } from "../../size.ts";
import { byteLength, type Shape } from "../../tensor.ts";
import type { Traffic } from "../../traffic.ts";
import { adapterName, isSoftware, requestAdapter } from "./adapters.ts";
import { Batch, MOST_UPLOAD } from "./batch.ts";
import { BUFFER_STEP, BufferPool, paddedBytes } from "./buffers.ts";
import { Faults, memoryFault } from "./faults.ts";
import { tryRoom } from "./room.ts";
import { Pipelines } from "./pipelines.ts";
import { copyIn, pack, unpack } from "./readback.ts";
import { GpuTensor, type Owner } from "./tensor.ts";

export { type AdapterDescription, type AdapterRequest, describeAdapters } from "./adapters.ts";

/** WebGPU's limit on each dimension of a dispatch. */
const MAX_WORKGROUPS = 65535;
/**
 * Bytes of a slice of a weight: enough work for a dispatch, and room for the f32 copies some ops
 * make of it.
 */
const SLICE_BYTES = { hardware: 32 * 2 ** 20, software: 8 * 2 ** 20 };

/**
 * An H100 has 132 multiprocessors, and a product of 512 rows with a weight of 4096 no more tiles of
 * the fastest kernel; with 2048 it runs twice as fast. A CPU that plays a GPU has a core or some.
 */
const PRODUCT_ROWS = { hardware: 2048, software: 512 };
/** As many workgroups of 64 rows as that has multiprocessors. */
const BUSY_ROWS = { hardware: 8192, software: 64 };

/**
 * Overwrites the bytes of one word that `mask` has set: the end of a write that covers a tensor in
 * part.
 */
const PATCH_WORD = defineOp(
  {
    name: "patch_word",
    inputs: {},
    outputs: { y: "u32[N]" },
    scalars: { index: "u32", mask: "u32", value: "u32" },
    wgsl: `
    struct Args { N: u32, index: u32, mask: u32, value: u32 }
    @group(0) @binding(0) var<storage, read_write> y: array<u32>;
    @group(1) @binding(0) var<uniform> args: Args;
    @compute @workgroup_size(1) fn main() {
      y[args.index] = (y[args.index] & ~args.mask) | (args.value & args.mask);
    }`,
    workgroups: (): [number, number, number] => [1, 1, 1],
    reference({ y }, _dims, { index = 0, mask = 0, value = 0 }) {
      y![index] = (y![index]! & ~mask) | (value & mask);
    },
  } satisfies Op,
);

/**
 * Fences that are under way at once. Deno looks for the end of the work within the call and tells
 * of it up to 11 ms later: with more work on its way since then nobody waits for that.
 */
const MOST_FENCES = 2;

/** The backend `openWebgpu` returns; `device` is there for measuring and for tests. */
export class WebgpuBackend implements Backend, Owner {
  readonly name = "webgpu";
  readonly description: string;
  readonly software: boolean;
  readonly maxTensorBytes: number;
  readonly sliceBytes: number;
  readonly productRows: number;
  readonly busyRows: number;
  readonly room?: (upTo: number) => Promise<number>;
  readonly device: GPUDevice;
  readonly #faults: Faults;
  readonly #batch: Batch;
  readonly #memory: BufferPool;
  readonly #staging: BufferPool;
  readonly #fences: Promise<unknown>[] = [];
  /** Reads under way. */
  #reading = 0;
  #waits = 0;
  #reads = 0;
  #downloaded = 0;

  constructor(device: GPUDevice, description: string, software: boolean) {
    this.device = device;
    this.description = description;
    this.software = software;
    const { maxBufferSize, maxStorageBufferBindingSize } = device.limits;
    const most = Math.min(maxBufferSize, maxStorageBufferBindingSize);
    this.maxTensorBytes = most - most % BUFFER_STEP;
    this.sliceBytes = Math.min(
      SLICE_BYTES[software ? "software" : "hardware"],
      this.maxTensorBytes,
    );
    this.productRows = PRODUCT_ROWS[software ? "software" : "hardware"];
    this.busyRows = BUSY_ROWS[software ? "software" : "hardware"];
    if (!software) this.room = (upTo) => tryRoom(device, upTo);
    this.#faults = new Faults(device, description);
    this.#batch = new Batch(device, this.#faults, new Pipelines(device, this.#faults));
    this.#memory = this.#pool(
      GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    );
    this.#staging = this.#pool(GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
  }

  get traffic(): Traffic {
    return {
      ...this.#batch.traffic,
      waits: this.#waits,
      reads: this.#reads,
      downloaded: this.#downloaded,
    };
  }

  supports(op: Op): true | string {
    const { maxStorageBuffersPerShaderStage: most } = this.device.limits;
    const count = argumentsOf(op).length;
    return count <= most || `${op.name} binds ${count} tensors, this GPU takes ${most}`;
  }

  alloc(dtype: DeviceDType, shape: Shape): Tensor {
    this.#faults.check();
    const bytes = deviceBytes({ dtype, shape });
    if (bytes > this.maxTensorBytes) {
      throw memoryFault(
        `allocate ${dtype}[${shape}], ${size(bytes)} where a kernel takes ${
          size(this.maxTensorBytes)
        },`,
        { device: this.description, bytes },
      );
    }
    const buffer = this.#memory.take(paddedBytes(bytes));
    return new GpuTensor(dtype, shape, { owner: this, buffer });
  }

  scope(): Scope {
    return makeScope(this);
  }

  write(tensor: Tensor, bytes: Uint8Array): void {
    this.#faults.check();
    const target = this.#own(tensor);
    const whole = byteLength(target);
    if (bytes.length > whole) {
      throw new RangeError(
        `Cannot write ${bytes.length} bytes to the tensor ${target}: it has ${whole}`,
      );
    }
    const words = bytes.length - bytes.length % 4;
    for (let from = 0; from < words; from += MOST_UPLOAD) {
      const piece = bytes.subarray(from, Math.min(words, from + MOST_UPLOAD));
      this.#batch.write(target.buffer, from, piece);
    }
    if (words < bytes.length) this.#writeTail(target, bytes.subarray(words), words);
  }

  async read(...tensors: Tensor[]): Promise<Uint8Array<ArrayBuffer>[]> {
    this.#faults.check();
    const parcels = pack(tensors.map((tensor) => this.#own(tensor)), this.#staging);
    this.#batch.submit();
    for (const { bytes } of parcels) this.#downloaded += bytes;
    this.#faults.watch("copy tensors out", () => copyIn(this.device, parcels));
    // Those that are under way at once wait together.
    if (this.#reading++ === 0) [this.#waits, this.#reads] = [this.#waits + 1, this.#reads + 1];
    const maps = await Promise.allSettled(
      parcels.map(({ buffer, bytes }) => buffer.mapAsync(GPUMapMode.READ, 0, bytes)),
    );
    try {
      await this.#settle();
      for (const map of maps) if (map.status === "rejected") throw await this.#unread(map.reason);
      const results = unpack(parcels);
      for (const { buffer } of parcels) buffer.unmap();
      for (const { buffer } of parcels) this.#staging.give(buffer);
      return results;
    } catch (error) {
      for (const { buffer } of parcels) buffer.destroy();
      throw error;
    } finally {
      this.#reading--;
    }
  }

  run(op: Op, tensors: Readonly<Record<string, Tensor>>, scalars: Scalars = {}): void {
    this.#faults.check();
    const dims = bindDims(op, tensors, scalars);
    const args = argumentsOf(op).map(([name]) => this.#own(tensors[name]!));
    checkAliases(op, args);
    const dtypes = args.map(({ dtype }) => dtype);
    const chosen = chosenVariant(op, { dims, scalars, dtypes });
    const workgroups = chosen.workgroups(dims, scalars);
    if (workgroups.some((count) => count > MAX_WORKGROUPS)) {
      throw new RangeError(
        `Cannot run ${op.name}: it asks for ${workgroups} workgroups, a GPU takes ${MAX_WORKGROUPS} a dimension`,
      );
    }
    if (workgroups.every((count) => count > 0)) {
      this.#batch.add({ op: chosen, tensors: args, dims, scalars, workgroups });
    }
  }

  async finish(): Promise<void> {
    this.#faults.check();
    this.#batch.submit();
    this.#waits++;
    await this.device.queue.onSubmittedWorkDone();
    await this.#settle();
  }

  async fence(): Promise<void> {
    this.#faults.check();
    this.#batch.submit();
    this.#fences.push(this.device.queue.onSubmittedWorkDone());
    if (this.#fences.length > MOST_FENCES) await this.#fences.shift();
    await setImmediate();
    await this.#settle();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.device.queue.onSubmittedWorkDone();
    this.#batch.close();
    this.#memory.clear();
    this.#staging.clear();
    this.device.destroy();
    await this.device.lost;
  }

  /**
   * Take back a tensor's buffer. What is queued may still use it; whoever gets it next comes later
   * in the same queue.
   */
  recycle(buffer: GPUBuffer): void {
    this.#memory.give(buffer);
  }

  #pool(usage: number): BufferPool {
    return new BufferPool({
      create: (bytes) =>
        this.#faults.watch(
          `make a buffer of ${size(bytes)}`,
          () => this.device.createBuffer({ size: bytes, usage }),
          { bytes },
        ),
      destroy: (buffer) => this.#batch.destroy(buffer),
    }, this.software ? POOL_BYTES / 2 : POOL_BYTES);
  }

  /**
   * Throw what went wrong. After a lack of memory the pools give up what they hold, so that a
   * smaller try has room.
   */
  async #settle(): Promise<void> {
    try {
      await this.#faults.settle();
    } catch (error) {
      if (error instanceof DeviceError && error.kind === "memory") {
        this.#memory.clear();
        this.#staging.clear();
      }
      throw error;
    }
  }

  /** Why a staging buffer could not be mapped. A lost device says that it is a moment later. */
  async #unread(reason: unknown): Promise<DeviceError> {
    await new Promise((resolve) => setTimeout(resolve));
    this.#faults.check();
    return new DeviceError(`Cannot read results from "${this.description}": ${reason}`, {
      kind: "kernel",
      backend: "webgpu",
      cause: reason,
    });
  }

  /** The last one to three bytes of a write at `offset`; WebGPU writes whole words. */
  #writeTail(target: GpuTensor, tail: Uint8Array, offset: number): void {
    const word = new Uint8Array(4);
    word.set(tail);
    if (offset + tail.length === byteLength(target)) {
      this.#batch.write(target.buffer, offset, word);
      return;
    }
    const value = new DataView(word.buffer).getUint32(0, true);
    const index = offset / 4;
    const y = new GpuTensor("u32", [index + 1], { owner: this, buffer: target.buffer });
    this.run(PATCH_WORD, { y }, { index, mask: 2 ** (8 * tail.length) - 1, value });
  }

  /** @throws {TypeError} the tensor is of another backend. */
  #own(tensor: Tensor): GpuTensor {
    if (tensor instanceof GpuTensor && tensor.owner === this) return tensor;
    throw new TypeError(
      `Cannot use a tensor ${tensor.dtype}[${tensor.shape}] on "${this.description}": another backend made it`,
    );
  }
}

/** WebGPU refuses a buffer that is written and bound twice, and would say so late. */
function checkAliases(op: Op, args: readonly GpuTensor[]): void {
  const names = argumentsOf(op).map(([name]) => name);
  for (let output = Object.keys(op.inputs).length; output < args.length; output++) {
    const other = args.findIndex(({ buffer }) => buffer === args[output]!.buffer);
    if (other < output) {
      throw new TypeError(
        `Cannot run ${op.name}: "${names[output]}" is written and is the same tensor as "${
          names[other]
        }"; give each its own memory`,
      );
    }
  }
}

/**
 * Open a GPU: the fastest there is, or with `fallback` an adapter that runs on the CPU.
 *
 * @param options.real Such an adapter counts as none.
 * @throws {DeviceError} of kind `absent` when there is none.
 */
export async function openWebgpu(
  { fallback = false, real = false }: {
    readonly fallback?: boolean;
    readonly real?: boolean;
  } = {},
): Promise<WebgpuBackend> {
  const adapter = await requestAdapter(fallback ? "fallback" : "high-performance");
  if (!adapter || real && isSoftware(adapter)) {
    throw new DeviceError(
      `Cannot open a ${
        fallback ? "software " : ""
      }GPU: the system offers none. Install a Vulkan, Metal or Direct3D 12 driver, or use \`device\` wasm.`,
      { kind: "absent", backend: "webgpu" },
    );
  }
  const { maxBufferSize, maxStorageBufferBindingSize } = adapter.limits;
  const device = await adapter.requestDevice({
    requiredLimits: {
      maxStorageBufferBindingSize,
      // No buffer is larger than what one kernel may bind; asking for more only risks what drivers
      // do with such numbers.
      maxBufferSize: Math.min(maxBufferSize, Math.max(2 ** 28, maxStorageBufferBindingSize)),
    },
  });
  return new WebgpuBackend(device, adapterName(adapter), isSoftware(adapter));
}
