/** How a command that a person wants to stop stops: at once, or when what is begun is saved. */
import type { Host } from "../command.ts";

/** See the head of this file. */
export class Halt implements Disposable {
  /** Aborted when everything stops: a unit that a run is to finish before is still read. */
  readonly controller = new AbortController();
  /** Whether a run has taken over, which says itself when it stops. */
  #saves = false;
  readonly #signal: AbortSignal;

  constructor({ signal }: Pick<Host, "signal">) {
    this.#signal = signal;
    if (signal.aborted) this.#end();
    signal.addEventListener("abort", this.#end);
  }

  /**
   * A run begins.
   *
   * @throws the reason of the signal, if it is aborted.
   */
  begin({ saves }: { readonly saves: boolean }): void {
    this.#signal.throwIfAborted();
    this.#saves = saves;
  }

  readonly #end = (): void => {
    if (!this.#saves) this.controller.abort(this.#signal.reason);
  };

  [Symbol.dispose](): void {
    this.#signal.removeEventListener("abort", this.#end);
  }
}
