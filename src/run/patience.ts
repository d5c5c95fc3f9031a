/** How a worker waits for what others make: soon again at first, then more seldom. */
import { machineTiming } from "../hub/timing.ts";

/** Milliseconds between two looks: the first, and the most. */
const WAITS = { first: 5, most: 500 };

/** See the head of this file. */
export class Patience {
  readonly #signal: AbortSignal | undefined;
  #wait = WAITS.first;

  /** @param signal Ends a wait, with its reason. */
  constructor(signal: AbortSignal | undefined) {
    this.#signal = signal;
  }

  async wait(): Promise<void> {
    await machineTiming.wait(this.#wait, this.#signal);
    this.#wait = Math.min(WAITS.most, 1.5 * this.#wait);
  }

  /** What was waited for is there. */
  end(): void {
    this.#wait = WAITS.first;
  }
}
