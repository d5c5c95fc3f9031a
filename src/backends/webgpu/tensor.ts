/**
 * A tensor in a GPU buffer. The buffer may be larger than the tensor, and comes back to whoever
 * made it.
 */
import type { Tensor } from "../../backend.ts";
import { deviceBytes, type DeviceDType } from "../../op.ts";
import type { Shape } from "../../tensor.ts";
import { paddedBytes } from "./buffers.ts";

/** What makes tensors and takes their buffers back. */
export interface Owner {
  recycle(buffer: GPUBuffer): void;
}

/** A tensor of the WebGPU backend. */
export class GpuTensor implements Tensor {
  readonly dtype: DeviceDType;
  readonly shape: Shape;
  readonly owner: Owner;
  /** Bytes a kernel is shown: whole 16-byte vectors. */
  readonly boundBytes: number;
  #buffer: GPUBuffer | undefined;

  constructor(dtype: DeviceDType, shape: Shape, { owner, buffer }: {
    readonly owner: Owner;
    readonly buffer: GPUBuffer;
  }) {
    this.dtype = dtype;
    this.shape = shape;
    this.owner = owner;
    this.boundBytes = paddedBytes(deviceBytes({ dtype, shape }));
    this.#buffer = buffer;
  }

  /** @throws {TypeError} the tensor was disposed of. */
  get buffer(): GPUBuffer {
    if (!this.#buffer) {
      throw new TypeError(`Cannot use the tensor ${this}: it was disposed of already`);
    }
    return this.#buffer;
  }

  /** `f32[2,3]` */
  toString(): string {
    return `${this.dtype}[${this.shape}]`;
  }

  [Symbol.dispose](): void {
    const buffer = this.#buffer;
    this.#buffer = undefined;
    if (buffer) this.owner.recycle(buffer);
  }
}
