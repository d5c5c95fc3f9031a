/**
 * Hashing on a thread of its own: a gigabyte takes half a second and more, in which this one would
 * neither receive nor compute.
 */
import type { HubFile, Span } from "../hub/client.ts";
import { hashStart } from "../hub/file.ts";
import { startThread } from "../thread.ts";
import workerSource from "./hash_worker.js" with { type: "text" };

/** Hashes in hexadecimal. */
export interface Digests {
  readonly whole: string;
  /** SHA-256 of each span that was asked for. */
  readonly parts: readonly string[];
}

/** Hashes one file. */
export interface Hashing {
  /** The next bytes of the file, which go away with their buffer and come back. */
  update(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>>;
  /** After the last byte, or when there will be none. */
  close(): Promise<Digests>;
}

/** The thread; it starts when there is something to hash. Dispose of it to end it. */
export class HashThread implements Disposable {
  #worker: Worker | undefined;
  #opened = 0;
  /** Those who wait for an answer, in order. */
  readonly #waiting: PromiseWithResolvers<unknown>[] = [];

  /** Hash a file, as its repository does, and parts of it. */
  open(file: Pick<HubFile, "hash" | "size">, spans: readonly Span[]): Hashing {
    const id = this.#opened++;
    // A thread that fails tells those who wait for the bytes.
    this.#ask({ id, open: { ...hashStart(file), spans } }).catch(() => {});
    return {
      update: async (bytes) =>
        await this.#ask({ id, bytes }, [bytes.buffer]) as Uint8Array<ArrayBuffer>,
      close: async () => await this.#ask({ id, close: true }) as Digests,
    };
  }

  #ask(message: unknown, moved: Transferable[] = []): Promise<unknown> {
    this.#worker ??= this.#start();
    const answer = Promise.withResolvers<unknown>();
    this.#waiting.push(answer);
    this.#worker.postMessage(message, moved);
    return answer.promise;
  }

  #start(): Worker {
    return startThread(workerSource, "sluice-hash", {
      onMessage: (answer) => this.#waiting.shift()!.resolve(answer),
      onFailure: (message) => {
        const error = new Error(`Cannot hash on a thread of its own: ${message}`);
        for (const { reject } of this.#waiting.splice(0)) reject(error);
      },
    });
  }

  [Symbol.dispose](): void {
    this.#worker?.terminate();
    this.#worker = undefined;
  }
}
