/**
 * Requests: one at a time over `fetch`, redirects followed by hand, the token given to its own
 * origin only, silence and lost connections told apart from refusals. Refused: other schemes than
 * https (http only on loopback, or where the endpoint itself is http), more than five redirects,
 * encoded bodies.
 */
import { type HubError, quote, RequestError } from "../errors.ts";
import type { Reporter } from "../report.ts";
import { RetryPolicy, TransientFault } from "./retry_policy.ts";
import { type Ask, type Asker, explain, type Failure, hubError } from "./refusals.ts";
import { type Fetching, fetchingBy } from "./fetching.ts";
import { Patience, Silence } from "./patience.ts";
import { type Buffers, OWN_BUFFERS } from "./buffer_pool.ts";
import { askedWait, machineTiming, type Timing } from "./timing.ts";

export { RetryPolicy, TransientFault };

/** How the Hub is reached. */
export interface TransportOptions {
  /** Without a slash at its end; `HUB` is the Hub itself. */
  readonly endpoint: string;
  readonly token?: string | undefined;
  readonly fetch?: typeof fetch;
  /** Ask nothing of the network. */
  readonly offline?: boolean;
  readonly userAgent: string;
  /** Milliseconds a server may be silent; 10 seconds unless given. */
  readonly idleTimeout?: number;
  /** How often a request is made again without progress; 5 unless given. */
  readonly retries?: number;
  readonly timing?: Timing;
  /** Hears of long waits. */
  readonly report?: Reporter;
}

const MAX_REDIRECTS = 5;
const ERROR_TEXT = 4096;
const PASSING: ReadonlySet<number> = new Set([408, 429, 500, 502, 503, 504]);

/** One request. */
export interface Sending {
  readonly ask: Ask;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
  /** `GET` unless given. Others are not redirected but by 307 and 308. */
  readonly method?: string;
  /**
   * What to send, made anew for every try; calls `alive` as its bytes are taken, so that a long one
   * is no silence.
   */
  readonly body?: (alive: () => void) => string | Blob;
  /** Milliseconds the server may be silent, instead of the transport's. */
  readonly idle?: number;
  /** What makes the request, unless the transport was given a `fetch`. */
  readonly by?: Fetching | undefined;
}

/** An answer that is a success. */
export interface Reply {
  readonly status: number;
  readonly headers: Headers;
  /** Where it came from, after redirects. */
  readonly url: URL;
  /** Headers of the redirects on the way. */
  readonly passed: readonly Headers[];
  /**
   * The body as it comes; ends when the connection does, whether all came or not. Throws
   * `TransientFault`.
   *
   * @param buffers Where it is put; the buffers are the caller's to give back. Without them each chunk
   * has memory of its own.
   */
  body(buffers?: Buffers): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined>;
  /** Close the connection without reading the body. */
  discard(): Promise<void>;
}

/** Makes requests. */
export class Transport implements Asker {
  readonly endpoint: string;
  readonly token: string | undefined;
  readonly timing: Timing;
  readonly retries: number;
  readonly offline: boolean;
  readonly report: Reporter;
  readonly #origin: URL;
  readonly #fetching: Fetching;
  /** Whether requests must go by the `fetch` that was given. */
  readonly #isGiven: boolean;
  readonly #userAgent: string;
  readonly #idle: number;
  /** Whether a server has ever answered. */
  reached = false;

  /**
   * @throws {RequestError} the endpoint is no web address, or would let the token travel in the
   * clear.
   */
  constructor(options: TransportOptions) {
    this.endpoint = options.endpoint;
    this.token = options.token;
    this.offline = options.offline ?? false;
    this.timing = options.timing ?? machineTiming;
    this.retries = options.retries ?? 5;
    this.report = options.report ?? (() => {});
    this.#isGiven = options.fetch !== undefined;
    this.#fetching = fetchingBy(options.fetch ?? fetch);
    this.#userAgent = options.userAgent;
    this.#idle = options.idleTimeout ?? 10_000;
    const origin = URL.parse(options.endpoint);
    if (!origin || !/^https?:$/.test(origin.protocol) || origin.username || origin.search) {
      throw new RequestError(
        `Cannot use ${quote(options.endpoint)} as the Hub: it is no address such as ` +
          `https://huggingface.co. Set HF_ENDPOINT to one, or unset it.`,
      );
    }
    if (options.token !== undefined && origin.protocol === "http:" && !isLoopback(origin)) {
      throw new RequestError(
        `Cannot send a token to ${quote(options.endpoint)}: the connection is not encrypted. ` +
          `Use an https address, or unset HF_TOKEN.`,
      );
    }
    this.#origin = origin;
  }

  /** The error of a failure. */
  error(ask: Ask, failure: Failure): HubError {
    return hubError(ask, failure, this);
  }

  /** How one thing that is asked for is tried again. */
  retryPolicy(ask: Ask, signal: AbortSignal | undefined): RetryPolicy {
    return new RetryPolicy(this, { ask, signal });
  }

  /** Whether a URL is of the Hub itself, where the token may go. */
  isHome(url: URL): boolean {
    return url.origin === this.#origin.origin;
  }

  /**
   * One request, redirects followed.
   *
   * @throws {TransientFault} the network failed, the server was silent, or answers that it may work
   * later.
   * @throws {HubError} the server refuses, or redirects to where Sluice does not go.
   */
  async send(
    start: URL,
    sending: Sending,
  ): Promise<Reply> {
    const { ask, method = "GET" } = sending;
    if (this.offline) {
      throw this.error(ask, {
        kind: "offline",
        found: "the network is switched off by HF_HUB_OFFLINE",
        advice: "Unset it, or give a folder with the files.",
      });
    }
    const passed: Headers[] = [];
    for (let url = start;;) {
      const reply = await this.#once(url, sending, passed);
      if (reply.status < 300 || reply.status >= 400) return await this.#accept(reply, ask);
      await reply.discard();
      if (passed.length === MAX_REDIRECTS) {
        return this.#refuse(ask, url, `it redirects more than ${MAX_REDIRECTS} times`);
      }
      if (method !== "GET" && reply.status < 307) {
        return this.#refuse(ask, url, `it redirects a ${method} with status ${reply.status}`);
      }
      passed.push(reply.headers);
      url = this.#follow(url, reply.headers.get("location"), ask);
    }
  }

  async #once(
    url: URL,
    { headers = {}, signal, method = "GET", body: makeBody, idle = this.#idle, by }: Sending,
    passed: readonly Headers[],
  ): Promise<Reply> {
    signal?.throwIfAborted();
    const end = new AbortController();
    const timed = async <T>(patience: Patience, act: () => Promise<T>): Promise<T> => {
      try {
        return await patience.wait(act);
      } catch (cause) {
        end.abort();
        signal?.throwIfAborted();
        throw this.#networkFault(cause, { url, idle });
      }
    };
    using first = new Patience(idle, signal);
    const fetching = this.#isGiven ? this.#fetching : by ?? this.#fetching;
    const answer = await timed(first, () =>
      fetching(url, {
        method,
        idle,
        ...(makeBody ? { body: makeBody(() => first.alive()) } : {}),
        headers: {
          ...headers,
          "user-agent": this.#userAgent,
          // Lengths and ranges are of the file's own bytes.
          "accept-encoding": "identity",
          ...(this.token !== undefined && this.isHome(url)
            ? { authorization: `Bearer ${this.token}` }
            : {}),
        },
        signal: end.signal,
      }));
    this.reached = true;
    const { status, headers: answered } = answer;
    return {
      status,
      headers: answered,
      url,
      passed,
      async *body(buffers = OWN_BUFFERS) {
        using patience = new Patience(idle, signal);
        const reader = answer.read(buffers);
        try {
          for (;;) {
            const chunk = await timed(patience, () => reader.next());
            if (!chunk) return;
            yield chunk;
          }
        } finally {
          await reader.close();
        }
      },
      discard: () => answer.discard(),
    };
  }

  /**
   * What a failed `fetch` or a failed read of a body means. Anything that is no fault of the
   * network is left as it is.
   */
  #networkFault(
    cause: unknown,
    { url, idle }: { readonly url: URL; readonly idle: number },
  ): unknown {
    if (cause instanceof Silence) {
      return new TransientFault({
        kind: "unreachable",
        found: `${quote(url.host)} sent nothing for ${idle / 1000} seconds`,
        advice: "Check the network, then run the same command again.",
        url,
      });
    }
    // What `fetch` raises for every fault of the network (Fetch standard §5.6).
    if (!(cause instanceof TypeError)) return cause;
    return new TransientFault({
      kind: "unreachable",
      found: `${quote(url.host)} cannot be reached, or the connection broke (${reason(cause)})`,
      advice: "Check the network, the proxy and HF_ENDPOINT, then run the same command again.",
      url,
      cause,
    });
  }

  /** Pass a success on, and turn everything else into an error. */
  async #accept(reply: Reply, ask: Ask): Promise<Reply> {
    const { status, headers, url } = reply;
    if (status >= 200 && status < 300) {
      const encoding = headers.get("content-encoding") ?? "identity";
      if (encoding === "identity") return reply;
      await reply.discard();
      const found = `it encodes the body (${quote(encoding)}), which was not asked for`;
      return this.#refuse(ask, url, found);
    }
    const failure = explain({ status, headers, url, text: await startOf(reply) }, ask, this);
    if (PASSING.has(status)) throw new TransientFault(failure, askedWait(headers, this.timing));
    throw this.error(ask, failure);
  }

  /** Where a redirect leads, if Sluice goes there. */
  #follow(from: URL, location: string | null, ask: Ask): URL {
    const to = location === null ? null : URL.parse(location, from);
    if (!to) return this.#refuse(ask, from, "it redirects without saying where to");
    if (to.username || to.password) {
      return this.#refuse(ask, from, "it redirects to an address with a user's name in it");
    }
    const clear = to.protocol === "http:" && from.protocol === "http:" &&
      (isLoopback(to) || this.#origin.protocol === "http:" && !isLoopback(this.#origin));
    if (to.protocol !== "https:" && !clear) {
      return this.#refuse(ask, from, `it redirects to ${quote(to.protocol)}, which is not safe`);
    }
    return to;
  }

  #refuse(ask: Ask, url: URL, found: string): never {
    throw this.error(ask, {
      kind: "protocol",
      found: `${quote(url.host)} gave a wrong answer: ${found}`,
      advice: "Check HF_ENDPOINT and proxies, then try again.",
      url,
    });
  }
}

/** The first bytes of a refusal's body, as far as they come. */
async function startOf(reply: Reply): Promise<string> {
  if (reply.headers.has("content-encoding")) {
    await reply.discard();
    return "";
  }
  const decoder = new TextDecoder();
  let text = "";
  try {
    for await (const chunk of reply.body()) {
      text += decoder.decode(chunk, { stream: true });
      if (text.length >= ERROR_TEXT) break;
    }
  } catch (fault) {
    // The status says enough; a body that breaks off adds nothing.
    if (!(fault instanceof TransientFault)) throw fault;
  }
  return text.slice(0, ERROR_TEXT);
}

/** The innermost reason that the runtime gives, without the URL that it names. */
function reason(cause: Error): string {
  let inner = cause;
  while (inner.cause instanceof Error) inner = inner.cause;
  return inner.message.replace(/^error sending request for url \([^)]*\): /, "")
    .replace(/^client error \(\w+\): /, "");
}

function isLoopback({ hostname }: URL): boolean {
  return hostname === "localhost" || hostname === "[::1]" || /^127\.\d+\.\d+\.\d+$/.test(hostname);
}
