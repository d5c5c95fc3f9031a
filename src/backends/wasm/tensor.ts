/** A tensor in the memory that kernels reach. */
import type { Tensor } from "../../backend.ts";
import { deviceBytes, type DeviceDType } from "../../op.ts";
import { byteLength, type Shape } from "../../tensor.ts";
import type { Heap } from "./heap.ts";

/** A block of the heap. */
export class WasmTensor implements Tensor {
  readonly dtype: DeviceDType;
  readonly shape: Shape;
  readonly heap: Heap;
  #address: number | undefined;

  constructor(heap: Heap, dtype: DeviceDType, shape: Shape) {
    this.dtype = dtype;
    this.shape = shape;
    this.heap = heap;
    this.#address = heap.take(deviceBytes(this));
  }

  get address(): number {
    if (this.#address === undefined) {
      throw new TypeError(`Cannot use a ${this.dtype}[${this.shape}] tensor: it was freed`);
    }
    return this.#address;
  }

  /** The tensor's own bytes, in the memory as it is now. */
  get bytes(): Uint8Array<ArrayBufferLike> {
    return new Uint8Array(this.heap.memory.buffer, this.address, byteLength(this));
  }

  [Symbol.dispose](): void {
    if (this.#address === undefined) return;
    this.heap.free(this.#address);
    this.#address = undefined;
  }
}
