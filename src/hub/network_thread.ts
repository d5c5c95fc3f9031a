/**
 * The network on a thread of its own: receiving a gigabyte takes most of a second of a core, in
 * which this one would not compute, and while this one computes nothing would be received.
 */
import { startThread } from "../thread.ts";
import workerSource from "./network_worker.js" with { type: "text" };
import type { Answer, BodyReader, Fetching } from "./fetching.ts";
import type { Buffers } from "./buffer_pool.ts";

/** Buffers that a body is lent at once: it goes on while this thread computes. */
export const AHEAD = 4;

/** What the thread says about a request. */
interface Message {
  readonly id: number;
  /** The answer's head. */
  readonly status?: number;
  readonly headers?: [string, string][];
  /** A buffer comes back, with some bytes or none. */
  readonly bytes?: Uint8Array<ArrayBuffer>;
  /** The body is complete. */
  readonly end?: true;
  readonly fault?: Pick<Error, "name" | "message">;
}

/** The thread; it starts with the first request. Dispose of it to end it and what is under way. */
export class NetworkThread implements Disposable {
  #worker: Worker | undefined;
  #isEnded = false;
  #asked = 0;
  readonly #transfers = new Map<number, Transfer>();

  /** See `Fetching`. Bodies are not sent. */
  readonly fetching: Fetching = async (url, { method, headers, signal, idle }) => {
    if (this.#isEnded) throw ended();
    const id = this.#asked++;
    this.#worker ??= this.#start();
    const transfer = new Transfer((message, moved = []) =>
      this.#worker!.postMessage({ id, ...message }, moved)
    );
    this.#transfers.set(id, transfer);
    this.#worker.postMessage({ id, open: { url: url.href, method, headers, idle } });
    signal.addEventListener("abort", () => transfer.cancel(), { once: true });
    return await transfer.answer;
  };

  #start(): Worker {
    return startThread<Message>(workerSource, "sluice-network", {
      onMessage: (message) => {
        const transfer = this.#transfers.get(message.id);
        transfer?.receive(message);
        if (transfer?.isOver) this.#transfers.delete(message.id);
      },
      onFailure: (message) => {
        this.#worker = undefined;
        this.#end(new Error(`Cannot receive on a thread of its own: ${message}`));
      },
    });
  }

  #end(error: Error): void {
    for (const transfer of this.#transfers.values()) transfer.fail(error);
    this.#transfers.clear();
  }

  [Symbol.dispose](): void {
    this.#isEnded = true;
    this.#worker?.terminate();
    this.#end(ended());
  }
}

function ended(): Error {
  return new Error("The network's thread was ended.");
}

/** The error that the other thread had: those that are told apart are of the same class here. */
function errorOf({ name, message }: Pick<Error, "name" | "message">): Error {
  if (name === "TypeError") return new TypeError(message);
  if (name === "NotCapable") return new Deno.errors.NotCapable(message);
  return new Error(message);
}

/** One request, as this thread sees it. */
class Transfer {
  readonly #tell: (message: object, moved?: Transferable[]) => void;
  readonly #answer = Promise.withResolvers<Answer>();
  #buffers: Buffers | undefined;
  /** Buffers that have not come back. */
  #lent = 0;
  #arrived: Uint8Array<ArrayBuffer>[] = [];
  #ended = false;
  #fault: Error | undefined;
  #change = Promise.withResolvers<void>();

  constructor(tell: (message: object, moved?: Transferable[]) => void) {
    this.#tell = tell;
    // Whoever waited may have given up.
    this.#answer.promise.catch(() => {});
  }

  get answer(): Promise<Answer> {
    return this.#answer.promise;
  }

  /** Whether nothing more will be heard of it. */
  get isOver(): boolean {
    return this.#ended && this.#lent === 0;
  }

  receive({ status, headers, bytes, end, fault }: Message): void {
    if (status !== undefined) {
      this.#answer.resolve({
        status,
        headers: new Headers(headers),
        read: (buffers) => this.#read(buffers),
        discard: () => Promise.resolve(this.cancel()),
      });
    }
    if (bytes) {
      this.#lent--;
      if (bytes.length > 0) this.#arrived.push(bytes);
      else this.#buffers!.give(bytes);
    }
    if (fault) this.#end(errorOf(fault));
    if (end) this.#ended = true;
    this.#changed();
  }

  cancel(): void {
    if (!this.#ended) this.#tell({ close: true });
  }

  /** The thread is gone, with the buffers that it had. */
  fail(error: Error): void {
    this.#lent = 0;
    this.#end(error);
    this.#changed();
  }

  #end(error: Error): void {
    this.#ended = true;
    this.#fault = error;
    this.#answer.reject(error);
  }

  #read(buffers: Buffers): BodyReader {
    this.#buffers = buffers;
    let closed = false;
    return {
      next: async () => {
        // Who gave up waiting closes while this still waits: no buffer may go to nobody.
        while (!closed) {
          while (this.#lent + this.#arrived.length < AHEAD && !this.#ended) this.#lend(buffers);
          const bytes = this.#arrived.shift();
          if (bytes) return bytes;
          if (this.#fault) throw this.#fault;
          if (this.#ended) return undefined;
          await this.#change.promise;
        }
        return undefined;
      },
      close: async () => {
        closed = true;
        this.cancel();
        while (this.#lent > 0) await this.#change.promise;
        for (const bytes of this.#arrived.splice(0)) buffers.give(bytes);
      },
    };
  }

  #lend(buffers: Buffers): void {
    const buffer = buffers.take();
    this.#lent++;
    this.#tell({ buffer }, [buffer.buffer]);
  }

  #changed(): void {
    this.#change.resolve();
    this.#change = Promise.withResolvers();
  }
}
