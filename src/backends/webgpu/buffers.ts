/**
 * GPU memory that is used again. Making a buffer costs tens of microseconds and the garbage
 * collector does not know how large one is, so small buffers wait in a pool by size class and large
 * ones are destroyed at once.
 */

/**
 * Buffers above this are destroyed when given back: keeping them would hold memory the next slice
 * needs.
 */
const LARGEST_POOLED = 64 * 2 ** 20;
/** Bytes the pool may keep for later. */
const POOL_BYTES = 256 * 2 ** 20;
/**
 * Every buffer is a multiple of this, so that a shader may declare any of them as an array of
 * 16-byte vectors.
 */
export const BUFFER_STEP = 16;

/** Bytes rounded up to a whole number of 16-byte vectors. */
export function paddedBytes(bytes: number): number {
  return Math.ceil(bytes / BUFFER_STEP) * BUFFER_STEP;
}

/**
 * The size to allocate for `bytes`: four classes per power of two, exact above the largest pooled
 * size.
 */
function sizeClass(bytes: number): number {
  if (bytes > LARGEST_POOLED) return paddedBytes(bytes);
  const step = Math.max(64, 2 ** Math.floor(Math.log2(bytes)) / 4);
  return Math.ceil(bytes / step) * step;
}

/** How a pool gets a buffer, and is rid of one. */
export interface BufferSource {
  create(size: number): GPUBuffer;
  destroy(buffer: GPUBuffer): void;
}

/** Buffers of one usage. What a buffer from it holds is undefined. */
export class BufferPool {
  readonly #source: BufferSource;
  readonly #free = new Map<number, GPUBuffer[]>();
  #freeBytes = 0;

  constructor(source: BufferSource) {
    this.#source = source;
  }

  /** A buffer of at least `bytes`. */
  take(bytes: number): GPUBuffer {
    const size = sizeClass(bytes);
    const buffer = this.#free.get(size)?.pop();
    if (!buffer) return this.#source.create(size);
    this.#freeBytes -= size;
    return buffer;
  }

  /** Keep a buffer for later, or destroy it where it is large or the pool full. */
  give(buffer: GPUBuffer): void {
    if (buffer.size > LARGEST_POOLED || this.#freeBytes + buffer.size > POOL_BYTES) {
      this.#source.destroy(buffer);
      return;
    }
    const row = this.#free.get(buffer.size);
    if (row) row.push(buffer);
    else this.#free.set(buffer.size, [buffer]);
    this.#freeBytes += buffer.size;
  }

  /** Destroy all that waits here. */
  clear(): void {
    for (const row of this.#free.values()) for (const buffer of row) this.#source.destroy(buffer);
    this.#free.clear();
    this.#freeBytes = 0;
  }
}
