/**
 * Looking after the device's queue and the event loop in long work, as windows walk and matrices are
 * solved with: seldom enough to cost little, often enough to hear of faults and signals.
 */
import type { Backend } from "./backend.ts";

/**
 * A slow GPU must not be sent work for minutes ahead, and a fast one need not be looked after
 * often.
 */
const MILLISECONDS = 150;
const CALLS = 16;

/** See the head of this file. */
export class Pace {
  readonly #backend: Backend;
  readonly #signal: AbortSignal | undefined;
  #looked = performance.now();
  #calls = 0;

  /** @param signal Ends the work when it is aborted. */
  constructor(backend: Backend, signal?: AbortSignal) {
    this.#backend = backend;
    this.#signal = signal;
  }

  /**
   * Keep the queue short and let the event loop turn, if nobody has for a while.
   *
   * @throws the signal's reason, once it is aborted.
   */
  async keep(): Promise<void> {
    if (++this.#calls >= CALLS || performance.now() - this.#looked >= MILLISECONDS) {
      await (this.#backend.fence?.() ?? this.#backend.finish());
      this.#looked = performance.now();
      this.#calls = 0;
    }
    this.#signal?.throwIfAborted();
  }
}
