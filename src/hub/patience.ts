/**
 * Waiting for a server: not longer than it may be silent, and not after the run was stopped. One
 * timer serves all waits of a request, for a body comes in thousands of pieces.
 */

/** A server was silent for too long. */
export class Silence extends Error {}

/** The waits of one request, one after another. Dispose of it when there are no more. */
export class Patience implements Disposable {
  readonly #idle: number;
  readonly #signal: AbortSignal | undefined;
  readonly #stopped = () => this.#giveUp?.(this.#signal!.reason);
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** When the server was last heard of, or the wait began. */
  #since = 0;
  /** Ends the wait that is under way. */
  #giveUp: ((reason: unknown) => void) | undefined;

  /** @param idle Milliseconds the server may be silent. */
  constructor(idle: number, signal: AbortSignal | undefined) {
    this.#idle = idle;
    this.#signal = signal;
    signal?.addEventListener("abort", this.#stopped);
  }

  /**
   * Wait for what `act` gives. Ends by itself: that a body hears of an abort cannot be relied on
   * (Deno 2.9 forgets signals that AbortSignal.any made).
   *
   * @throws {Silence} the server was silent for too long.
   */
  async wait<T>(act: () => Promise<T>): Promise<T> {
    this.#signal?.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    this.#giveUp = reject;
    this.alive();
    this.#timer ??= setTimeout(this.#look, this.#idle);
    try {
      act().then(resolve, reject);
      return await promise;
    } finally {
      this.#giveUp = undefined;
    }
  }

  /** The server was heard of: the wait that is under way begins anew. */
  alive(): void {
    this.#since = performance.now();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#signal?.removeEventListener("abort", this.#stopped);
  }

  readonly #look = () => {
    this.#timer = undefined;
    // Between two waits nobody minds silence; the next one starts the timer.
    if (!this.#giveUp) return;
    const left = this.#since + this.#idle - performance.now();
    if (left > 0) this.#timer = setTimeout(this.#look, left);
    else this.#giveUp(new Silence());
  };
}
