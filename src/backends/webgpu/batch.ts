/**
 * Work that waits to go to the GPU together. Dispatches of a batch share one compute pass and one
 * uniform buffer, each with its own offset in it; a batch goes when it is long enough or when
 * somebody waits.
 */
import { POOL_BYTES } from "../../limits.ts";
import { dimNames, type Dims, type Op, type Scalars } from "../../op.ts";
import type { Traffic } from "../../traffic.ts";
import type { Faults } from "./faults.ts";
import type { Kernel, Pipelines } from "./pipelines.ts";
import type { GpuTensor } from "./tensor.ts";

/** Bytes of a dispatch's uniform block; WebGPU guarantees that offsets may be multiples of 256. */
const UNIFORM_BYTES = 256;
const UNIFORM_WORDS = UNIFORM_BYTES / 4;
/** The most dispatches of a batch. */
const MOST_DISPATCHES = 256;
/**
 * Bytes of upload after which a batch goes: each write holds staging memory until a submission
 * after it has finished.
 */
export const MOST_UPLOAD = 8 * 2 ** 20;
/**
 * Work after which a batch goes: workgroups times the longest dimension, which for a matrix product
 * is its multiply-adds over 4096. This much takes a few tenths of a second on a slow GPU; drivers
 * kill submissions that take seconds.
 */
const MOST_WORK = 2 ** 25;

/** One call of an op. */
export interface Call {
  readonly op: Op;
  /** In binding order. */
  readonly tensors: readonly GpuTensor[];
  readonly dims: Dims;
  readonly scalars: Scalars;
  readonly workgroups: readonly [x: number, y: number, z: number];
}

/** A tensor as a dispatch binds it. */
interface Binding {
  readonly buffer: GPUBuffer;
  readonly size: number;
}

/** A call that waits for its batch to go. */
interface Dispatch {
  readonly op: string;
  readonly kernel: Kernel;
  readonly tensors: readonly Binding[];
  readonly workgroups: readonly [x: number, y: number, z: number];
}

/** The batch that is open, and after it the next. */
export class Batch {
  readonly #device: GPUDevice;
  readonly #faults: Faults;
  readonly #pipelines: Pipelines;
  readonly #uniforms: GPUBuffer;
  readonly #uniformBinding: GPUBindGroup;
  readonly #words = new Uint32Array(MOST_DISPATCHES * UNIFORM_WORDS);
  readonly #floats = new Float32Array(this.#words.buffer);
  readonly #offset = new Uint32Array(1);
  readonly #used = new Set<GPUBuffer>();
  readonly #numbers = new WeakMap<GPUBuffer, number>();
  #buffers = 0;
  #dispatches: Dispatch[] = [];
  #doomed: GPUBuffer[] = [];
  #uploaded = 0;
  #work = 0;
  /** Bytes that were destroyed since the device was last looked after. */
  #retired = 0;
  #traffic = { dispatches: 0, submits: 0, uploaded: 0 };

  constructor(device: GPUDevice, faults: Faults, pipelines: Pipelines) {
    this.#device = device;
    this.#faults = faults;
    this.#pipelines = pipelines;
    this.#uniforms = device.createBuffer({
      size: this.#words.byteLength,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
    this.#uniformBinding = device.createBindGroup({
      layout: pipelines.uniformLayout,
      entries: [{ binding: 0, resource: { buffer: this.#uniforms, size: UNIFORM_BYTES } }],
    });
  }

  /** What was queued and handed over so far. */
  get traffic(): Pick<Traffic, "dispatches" | "submits" | "uploaded"> {
    return { ...this.#traffic };
  }

  /** Whether a call that has not gone yet needs what is in a buffer. */
  uses(buffer: GPUBuffer): boolean {
    return this.#used.has(buffer);
  }

  /** Queue a call. */
  add({ op, tensors, dims, scalars, workgroups }: Call): void {
    let word = this.#dispatches.length * UNIFORM_WORDS;
    for (const dim of dimNames(op)) this.#words[word++] = dims[dim]!;
    for (const [name, type] of Object.entries(op.scalars ?? {})) {
      (type === "u32" ? this.#words : this.#floats)[word++] = scalars[name]!;
    }
    this.#dispatches.push({
      op: op.name,
      kernel: this.#pipelines.get(op, tensors.map(({ dtype }) => dtype)),
      tensors: tensors.map(({ buffer, boundBytes: size }) => ({ buffer, size })),
      workgroups,
    });
    for (const { buffer } of tensors) this.#used.add(buffer);
    this.#traffic.dispatches++;
    const [x, y, z] = workgroups;
    this.#work += op.work
      ? op.work(dims, scalars) / 4096
      : x * y * z * Math.max(...Object.values(dims));
    if (this.#dispatches.length === MOST_DISPATCHES || this.#work >= MOST_WORK) this.submit();
  }

  /**
   * Copy whole words to a buffer. A write happens before all that waits in the open batch, so the
   * batch goes first if it must.
   */
  write(buffer: GPUBuffer, offset: number, bytes: Uint8Array): void {
    if (this.uses(buffer)) this.submit();
    this.#device.queue.writeBuffer(buffer, offset, bytes as Uint8Array<ArrayBuffer>);
    this.#uploaded += bytes.length;
    this.#traffic.uploaded += bytes.length;
    if (this.#uploaded >= MOST_UPLOAD) this.submit();
  }

  /**
   * Destroy a buffer once nothing that waits needs it. Its memory is free when the device has done
   * all that uses it: if that is much, the device is looked after, which Deno does within the call.
   */
  destroy(buffer: GPUBuffer): void {
    if (this.uses(buffer)) this.#doomed.push(buffer);
    else buffer.destroy();
    this.#retired += buffer.size;
    if (this.#retired < POOL_BYTES) return;
    this.submit();
    this.#retired = 0;
    void this.#device.queue.onSubmittedWorkDone();
  }

  /** Hand the batch to the GPU. */
  submit(): void {
    const dispatches = this.#dispatches;
    if (dispatches.length === 0 && this.#uploaded === 0) return;
    this.#traffic.submits++;
    const names = [...new Set(dispatches.map(({ op }) => op))];
    this.#faults.watch(
      names.length > 0 ? `run ${names.join(", ")}` : "upload tensors",
      () => this.#device.queue.submit(dispatches.length > 0 ? [this.#encode(dispatches)] : []),
    );
    for (const buffer of this.#doomed) buffer.destroy();
    this.#doomed = [];
    this.#dispatches = [];
    this.#used.clear();
    this.#uploaded = 0;
    this.#work = 0;
  }

  /** Forget what waits and free what was held. */
  close(): void {
    this.#dispatches = [];
    for (const buffer of this.#doomed) buffer.destroy();
    this.#doomed = [];
    this.#used.clear();
    this.#uniforms.destroy();
  }

  #encode(dispatches: readonly Dispatch[]): GPUCommandBuffer {
    const words = dispatches.length * UNIFORM_WORDS;
    this.#device.queue.writeBuffer(this.#uniforms, 0, this.#words, 0, words);
    const encoder = this.#device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    // Making a group takes longer than the rest of a dispatch, and loops ask for the same again.
    const groups = new Map<GPUBindGroupLayout, Map<string, GPUBindGroup>>();
    dispatches.forEach(({ op, kernel: { pipeline, layout }, tensors, workgroups }, i) => {
      const key = tensors.map(({ buffer, size }) => `${this.#numberOf(buffer)}:${size}`).join();
      const group = groups.getOrInsertComputed(layout, () => new Map())
        .getOrInsertComputed(key, () => this.#group(op, layout, tensors));
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      this.#offset[0] = i * UNIFORM_BYTES;
      pass.setBindGroup(1, this.#uniformBinding, this.#offset, 0, 1);
      pass.dispatchWorkgroups(...workgroups);
    });
    pass.end();
    return encoder.finish();
  }

  #group(label: string, layout: GPUBindGroupLayout, tensors: readonly Binding[]): GPUBindGroup {
    const entries = tensors.map((resource, binding) => ({ binding, resource }));
    return this.#device.createBindGroup({ label, layout, entries });
  }

  #numberOf(buffer: GPUBuffer): number {
    return this.#numbers.getOrInsertComputed(buffer, () => ++this.#buffers);
  }
}
