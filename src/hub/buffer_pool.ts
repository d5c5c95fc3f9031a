/**
 * Memory for bytes on their way, used again and again.
 */

/** Where memory for arriving bytes comes from, and where it goes back to. */
export interface Buffers {
  /** A buffer. */
  take(): Uint8Array<ArrayBuffer>;
  /** It is free again; `bytes` may be a part of it. */
  give(bytes: Uint8Array<ArrayBuffer>): void;
}

/** Buffers of one size, kept for the next who needs one. */
export class BufferPool implements Buffers {
  readonly #bytes: number;
  readonly #free: Uint8Array<ArrayBuffer>[] = [];

  /** @param bytes The size of a buffer. */
  constructor(bytes: number) {
    this.#bytes = bytes;
  }

  take(): Uint8Array<ArrayBuffer> {
    return this.#free.pop() ?? new Uint8Array(this.#bytes);
  }

  give(bytes: Uint8Array<ArrayBuffer>): void {
    this.#free.push(new Uint8Array(bytes.buffer));
  }
}

/** Buffers that are not taken back: small ones, for bytes that are kept. */
export const OWN_BUFFERS: Buffers = {
  take: () => new Uint8Array(64 * 2 ** 10),
  give() {},
};
