/**
 * Requests that change something on the Hub, and small questions beside them: repeated where that
 * is safe, answers read whole, files sent a few at a time. What travels goes through `Transport`,
 * which keeps the token at home and secrets out of errors.
 */
import { SENT_AT_ONCE } from "../limits.ts";
import { HubError, quote } from "../errors.ts";
import type { Ask } from "../hub/refusals.ts";
import {
  type Reply,
  type Sending,
  TransientFault,
  Transport,
  type TransportOptions,
} from "../hub/transport.ts";
import type { FileBlob } from "./file_blob.ts";

/** Bytes of an answer that are read; commits of thousands of files are answered in less. */
const ANSWER_LIMIT = 16 * 2 ** 20;

/**
 * How much longer a silence may be than when reading (10 seconds): a commit takes up to a minute,
 * storage joins parts before it answers.
 */
const PATIENCE = 12;

/** One request. */
export interface Post extends Pick<Sending, "ask" | "headers" | "signal" | "method"> {
  readonly body?: string;
  /**
   * What may be repeated when it is not known whether the server did it: `always`, or only what the
   * server refused for now (`refused`), because doing it twice would show.
   */
  readonly again: "always" | "refused";
}

/** An answer, read whole. */
export interface Answer {
  readonly text: string;
  readonly headers: Headers;
  readonly url: URL;
}

/** Sends. */
export class Sender {
  readonly transport: Transport;
  /** Those who wait for their turn to send a file. */
  readonly #waiting: (() => void)[] = [];
  #sending = 0;

  constructor(options: TransportOptions) {
    this.transport = new Transport({
      ...options,
      idleTimeout: PATIENCE * (options.idleTimeout ?? 10_000),
    });
  }

  /** An address of the Hub itself; parts of it are encoded by the caller. */
  home(path: string): URL {
    return new URL(`${this.transport.endpoint}${path}`);
  }

  /**
   * An address that the Hub gave.
   *
   * @throws {HubError} it is none, or the way there is not encrypted where the Hub's is.
   */
  address(href: unknown, ask: Ask): URL {
    const url = typeof href === "string" ? URL.parse(href) : null;
    const { protocol } = new URL(this.transport.endpoint);
    if (url && !url.username && (url.protocol === "https:" || url.protocol === protocol)) {
      return url;
    }
    return this.wrong(ask, "gives no safe address to send the file to");
  }

  /**
   * Send something small, or ask.
   *
   * @throws {HubError} the Hub refuses, or could not be reached.
   * @throws {TransientFault} with `again: "refused"`: it is not known whether the Hub did it.
   */
  async post(
    url: URL,
    { ask, again, signal, method = "POST", headers, body }: Post,
  ): Promise<Answer> {
    const policy = this.transport.retryPolicy(ask, signal);
    for (;;) {
      try {
        const reply = await this.transport.send(url, {
          ask,
          method,
          signal,
          ...(headers ? { headers } : {}),
          // Not the text itself: Deno's `fetch` sends that a second time when a kept connection
          // breaks, and tells nobody.
          ...(body === undefined ? {} : { body: () => new Blob([body]) }),
        });
        return await this.#read(reply);
      } catch (fault) {
        if (again === "refused" && isUncertain(fault)) throw fault;
        await policy.failed(this.#clarify(fault, ask));
      }
    }
  }

  /** As `post`, and the answer is JSON. */
  async json(url: URL, post: Post): Promise<unknown> {
    const { text } = await this.post(url, post);
    return this.parse(text, post.ask);
  }

  /**
   * Send a file or a part of one with PUT, from its first byte at every try.
   *
   * @param sent hears of bytes as they go, and of negative ones when a try has failed
   * @throws {HubError} storage refuses it, or could not be reached.
   * @throws {CheckpointError} the file changed.
   */
  async put(
    url: URL,
    blob: FileBlob,
    { ask, signal, sent }: {
      readonly ask: Ask;
      readonly signal: AbortSignal | undefined;
      readonly sent: (bytes: number) => void;
    },
  ): Promise<Answer> {
    using _turn = await this.#turn();
    const policy = this.transport.retryPolicy(ask, signal);
    for (;;) {
      const faults: unknown[] = [];
      let taken = 0;
      let stream = 0;
      const begin = () => {
        sent(-taken);
        taken = 0;
        return ++stream;
      };
      try {
        const reply = await this.transport.send(url, {
          ask,
          method: "PUT",
          signal,
          body: (alive) => {
            const mine = begin();
            return blob.watched({
              taken(bytes) {
                // A stream that was given up may still be read once.
                if (mine !== stream) return;
                alive();
                taken += bytes;
                sent(bytes);
              },
              failed: (fault) => faults.push(fault),
            });
          },
        });
        return await this.#read(reply);
      } catch (fault) {
        begin();
        // A file that cannot be read looks like a broken connection from outside.
        if (faults.length > 0) throw faults[0];
        await policy.failed(fault);
      }
    }
  }

  /** The error for an answer that is not what the Hub's protocol says. */
  wrong(ask: Ask, found: string): never {
    throw this.transport.error(ask, {
      kind: "protocol",
      found: `${quote(new URL(this.transport.endpoint).host)} ${found}`,
      advice: "Check HF_ENDPOINT and proxies, then try again.",
    });
  }

  /** @throws {HubError} the text is not JSON. */
  parse(text: string, ask: Ask): unknown {
    try {
      return JSON.parse(text);
    } catch (fault) {
      if (!(fault instanceof SyntaxError)) throw fault;
      return this.wrong(ask, "sent something that is not JSON");
    }
  }

  async #read(reply: Reply): Promise<Answer> {
    const chunks: Uint8Array<ArrayBuffer>[] = [];
    let size = 0;
    for await (const chunk of reply.body()) {
      size += chunk.length;
      if (size > ANSWER_LIMIT) break;
      chunks.push(chunk);
    }
    const { headers, url } = reply;
    return { text: await new Blob(chunks).text(), headers, url };
  }

  /** Better words for refusals that only requests to change something meet. */
  #clarify(fault: unknown, ask: Ask): unknown {
    if (!(fault instanceof HubError)) return fault;
    const words = REFUSALS[fault.status ?? 0];
    if (!words) return fault;
    const found = fault.message.match(/ and says (".*?")\. /)?.[1];
    return this.transport.error(ask, {
      ...words,
      found: found === undefined ? words.found : `${words.found} (it says ${found})`,
      status: fault.status,
      ...(fault.url === undefined ? {} : { url: new URL(fault.url) }),
    });
  }

  /** Wait until fewer than `SENT_AT_ONCE` are sending. */
  async #turn(): Promise<Disposable> {
    while (this.#sending >= SENT_AT_ONCE) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    this.#sending++;
    return {
      [Symbol.dispose]: () => {
        this.#sending--;
        this.#waiting.shift()?.();
      },
    };
  }
}

/** Whether a request may have been carried out although its answer says otherwise, or none came. */
export function isUncertain(fault: unknown): fault is TransientFault {
  return fault instanceof TransientFault && fault.failure.kind !== "rate-limited";
}

const CONFLICT = {
  kind: "conflict",
  found: "someone else changed the repository meanwhile",
  advice: "Look at what they did, then run the same command again.",
} as const;

const UNACCEPTED = {
  kind: "protocol",
  found: "the Hub does not accept it",
  advice: "Mend that, then run the same command again.",
} as const;

const REFUSALS: Readonly<
  Record<number, Pick<TransientFault["failure"], "kind" | "found" | "advice">>
> = {
  400: UNACCEPTED,
  402: {
    kind: "forbidden",
    found: "the Hub asks for payment first",
    advice: "Look at your account's plan and storage in its billing settings.",
  },
  409: CONFLICT,
  412: CONFLICT,
  413: {
    kind: "protocol",
    found: "it is more than the Hub takes at once",
    advice: "Use fewer or larger shards (`max-shard-size`).",
  },
  422: UNACCEPTED,
};
