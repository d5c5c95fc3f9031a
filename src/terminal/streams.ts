/** A stream of text whose faults wait. */
import { SpaceError } from "../errors.ts";
import type { TextStream } from "./command.ts";
import { ReaderGone } from "./faults.ts";

/**
 * A stream that is not written to any more once it has failed, and tells of that when it is asked:
 * for a command whose work is worth more than what it prints, and for messages, of which nobody
 * could be told that they are lost.
 */
export class PatientStream implements TextStream {
  readonly #stream: TextStream;
  #fault: unknown;

  constructor(stream: TextStream) {
    this.#stream = stream;
  }

  get isTerminal(): boolean {
    return this.#stream.isTerminal;
  }

  get columns(): number {
    return this.#stream.columns;
  }

  write(text: string): void {
    if (this.#fault !== undefined) return;
    try {
      this.#stream.write(text);
    } catch (error) {
      if (!(error instanceof ReaderGone || error instanceof SpaceError)) throw error;
      this.#fault = error;
    }
  }

  /** @throws {ReaderGone | SpaceError} not all could be written. */
  check(): void {
    if (this.#fault !== undefined) throw this.#fault;
  }
}
