/**
 * Memory of the WASM backend: a list of free blocks over one shared WebAssembly.Memory, in order of
 * address, the first that fits taken and neighbours merged when freed. It grows the memory when
 * nothing fits, and refuses past 4 GiB.
 */
import { DeviceError } from "../../errors.ts";
import { size } from "../../size.ts";

const PAGE = 65536;
/**
 * Pages a 32-bit memory may have, but the last: an address past the end must still be a 32-bit
 * number.
 */
export const MAX_PAGES = 65535;
/** Every block starts at a multiple of this. */
const ALIGNMENT = 16;
/**
 * Bytes after every block's own that kernels may read and overwrite, so that their flat loops need
 * no tails.
 */
const SLACK = 64;
/** Memory grows by at least this many pages: 4 MiB. */
const STEP = 64;

interface Block {
  address: number;
  size: number;
}

/** Blocks of a shared memory. */
export class Heap {
  readonly memory: WebAssembly.Memory;
  /** Free blocks by address; no two touch. */
  readonly #free: Block[] = [];
  /** Sizes of the blocks in use. */
  readonly #sizes = new Map<number, number>();
  readonly #maxPages: number;

  /** `base` is the first byte free for blocks; `maxPages` is there for tests. */
  constructor(memory: WebAssembly.Memory, base: number, maxPages = MAX_PAGES) {
    this.memory = memory;
    this.#maxPages = maxPages;
    const address = Math.ceil(base / ALIGNMENT) * ALIGNMENT;
    this.#release({ address, size: memory.buffer.byteLength - address });
  }

  /** Bytes in use, slack included. */
  get used(): number {
    return this.#sizes.values().reduce((sum, size) => sum + size, 0);
  }

  /**
   * The address of `bytes` bytes.
   *
   * @throws {DeviceError} of kind `memory`: 4 GiB are used up, or the system gives no more.
   */
  take(bytes: number): number {
    const needed = Math.ceil((bytes + SLACK) / ALIGNMENT) * ALIGNMENT;
    let index = this.#free.findIndex((block) => block.size >= needed);
    if (index < 0) {
      this.#grow(needed, bytes);
      index = this.#free.length - 1;
    }
    const block = this.#free[index]!;
    const { address } = block;
    if (block.size === needed) this.#free.splice(index, 1);
    else [block.address, block.size] = [address + needed, block.size - needed];
    this.#sizes.set(address, needed);
    return address;
  }

  /**
   * Give a block back.
   *
   * @throws {RangeError} no block in use starts at `address`.
   */
  free(address: number): void {
    const size = this.#sizes.get(address);
    if (size === undefined) {
      throw new RangeError(`Cannot free address ${address}: no block in use starts there`);
    }
    this.#sizes.delete(address);
    this.#release({ address, size });
  }

  /** Add a block to the free list, merged with its neighbours. */
  #release(block: Block): void {
    if (block.size <= 0) return;
    let index = this.#free.findIndex(({ address }) => address > block.address);
    if (index < 0) index = this.#free.length;
    const before = this.#free[index - 1];
    const after = this.#free[index];
    if (after && block.address + block.size === after.address) {
      block.size += after.size;
      this.#free.splice(index, 1);
    }
    if (before && before.address + before.size === block.address) before.size += block.size;
    else this.#free.splice(index, 0, block);
  }

  /** Make the last free block hold `block` bytes. */
  #grow(block: number, asked: number): void {
    const end = this.memory.buffer.byteLength;
    const last = this.#free.at(-1);
    const spare = last && last.address + last.size === end ? last.size : 0;
    const needed = Math.ceil((block - spare) / PAGE);
    const pages = Math.min(Math.max(needed, STEP), this.#maxPages - end / PAGE);
    const fail = (reason: string, cause?: unknown): never => {
      throw new DeviceError(
        `Cannot allocate ${size(asked)} on the CPU: ${reason}, and ${size(this.used)} are in use.`,
        { kind: "memory", backend: "wasm", bytes: asked, cause },
      );
    };
    if (pages < needed) {
      fail(`a WebAssembly memory holds at most ${size(this.#maxPages * PAGE)}`);
    }
    try {
      this.memory.grow(pages);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      fail("the system gives no more memory", error);
    }
    this.#release({ address: end, size: pages * PAGE });
  }
}
