/**
 * Looking after the device's queue while windows walk: seldom enough to cost little, often enough to
 * hear of faults and signals.
 */
import type { Backend } from "../backend.ts";

/**
 * A slow GPU must not be sent work for minutes ahead, and a fast one need not be looked after
 * often.
 */
const MILLISECONDS = 150;
const CALLS = 16;

/** See the head of this file. */
export class Pace {
  readonly #backend: Backend;
  #looked = performance.now();
  #calls = 0;

  constructor(backend: Backend) {
    this.#backend = backend;
  }

  /** Keep the queue short, if nobody has for a while. */
  async keep(): Promise<void> {
    if (++this.#calls < CALLS && performance.now() - this.#looked < MILLISECONDS) return;
    await (this.#backend.fence?.() ?? this.#backend.finish());
    this.#looked = performance.now();
    this.#calls = 0;
  }
}
