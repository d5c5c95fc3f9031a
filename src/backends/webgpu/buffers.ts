/**
 * GPU memory that is used again. Making a buffer costs tens of microseconds, the garbage collector
 * does not know how large one is, and one that is destroyed keeps its memory until all that was
 * queued with it is done: so buffers wait in a pool by size class, up to some bytes, and those that
 * have waited longest make room.
 */
/** Buffers up to this have sizes of few classes, larger ones their own. */
const LARGEST_CLASS = 64 * 2 ** 20;
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
 * The size to allocate for `bytes`: four classes per power of two, exact above the largest class.
 */
function sizeClass(bytes: number): number {
  if (bytes > LARGEST_CLASS) return paddedBytes(bytes);
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
  readonly #mostBytes: number;
  /** Those that have waited longest first. */
  readonly #free = new Set<GPUBuffer>();
  readonly #bySize = new Map<number, Set<GPUBuffer>>();
  #freeBytes = 0;

  /** @param mostBytes Bytes that may wait. */
  constructor(source: BufferSource, mostBytes: number) {
    this.#source = source;
    this.#mostBytes = mostBytes;
  }

  /** A buffer of at least `bytes`. */
  take(bytes: number): GPUBuffer {
    const size = sizeClass(bytes);
    const [buffer] = this.#bySize.get(size) ?? [];
    if (!buffer) return this.#source.create(size);
    this.#remove(buffer);
    return buffer;
  }

  /** Keep a buffer for later. */
  give(buffer: GPUBuffer): void {
    this.#free.add(buffer);
    this.#bySize.getOrInsertComputed(buffer.size, () => new Set()).add(buffer);
    this.#freeBytes += buffer.size;
    for (const oldest of this.#free) {
      if (this.#freeBytes <= this.#mostBytes) return;
      this.#remove(oldest);
      this.#source.destroy(oldest);
    }
  }

  /** Destroy all that waits here. */
  clear(): void {
    for (const buffer of this.#free) {
      this.#remove(buffer);
      this.#source.destroy(buffer);
    }
  }

  #remove(buffer: GPUBuffer): void {
    this.#free.delete(buffer);
    this.#bySize.get(buffer.size)!.delete(buffer);
    this.#freeBytes -= buffer.size;
  }
}
