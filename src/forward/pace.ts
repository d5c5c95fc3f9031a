/**
 * Waiting for the device now and then while windows walk: seldom enough to cost little, often
 * enough to hear of faults and signals.
 */
import type { Backend } from "../backend.ts";

/**
 * Waiting for a GPU takes 11 ms in Deno, however little there is to wait for (`mapAsync` and
 * `onSubmittedWorkDone` sleep between polls): on a fast GPU more than a window takes. A slow one
 * must not be sent work for minutes ahead.
 */
const MILLISECONDS = 150;
const CALLS = 16;

/** See the head of this file. */
export class Pace {
  readonly #backend: Backend;
  #waited = performance.now();
  #calls = 0;

  constructor(backend: Backend) {
    this.#backend = backend;
  }

  /** Wait for all that was queued, if nobody has for a while. */
  async keep(): Promise<void> {
    if (++this.#calls < CALLS && performance.now() - this.#waited < MILLISECONDS) return;
    await this.#backend.finish();
    this.#waited = performance.now();
    this.#calls = 0;
  }
}
