/**
 * Memory for bytes on their way, used again and again.
 */

/** Where memory for arriving bytes comes from, and where it goes back to. */
export interface Rooms {
  /** Room for some bytes. */
  take(): Uint8Array<ArrayBuffer>;
  /** The room is free again; `bytes` may be a part of it. */
  give(bytes: Uint8Array<ArrayBuffer>): void;
}

/** Rooms of one size, kept for the next who needs one. */
export class RoomPool implements Rooms {
  readonly #bytes: number;
  readonly #free: Uint8Array<ArrayBuffer>[] = [];

  /** @param bytes The size of a room. */
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

/** Rooms that are not taken back: small ones, for bytes that are kept. */
export const KEPT: Rooms = {
  take: () => new Uint8Array(64 * 2 ** 10),
  give() {},
};
