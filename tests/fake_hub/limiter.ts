/**
 * Rate limits: what every answer of the Hub says of them, and the 429 of a client that asks too
 * often.
 */
import { rateLimited } from "./faults.ts";
import type { Answer, Visit } from "./answer.ts";

const WINDOW_SECONDS = 300;

/** What the Hub allows a free account in five minutes. */
const FREE = { api: 1000, resolvers: 5000 };

type Bucket = keyof typeof FREE;

/** Counts the requests of each bucket, all clients together. */
export class Limiter {
  readonly #limits: { readonly api?: number; readonly resolvers?: number };
  readonly #counts: Record<Bucket, number> = { api: 0, resolvers: 0 };
  readonly #began = Date.now();
  #window = 0;
  #requests = 0;

  /** @param limits requests in five minutes; a bucket that is not named is never full. */
  constructor(limits: { readonly api?: number; readonly resolvers?: number }) {
    this.#limits = limits;
  }

  /** Answer a request, or say that it is one too many. Adds what is on every answer of the Hub. */
  async limit({ url }: Visit, answer: () => Promise<Answer>): Promise<Answer> {
    const bucket: Bucket = /\/(resolve|raw|resolve-cache)\//.test(url.pathname)
      ? "resolvers"
      : "api";
    const seconds = (Date.now() - this.#began) / 1000;
    const window = Math.floor(seconds / WINDOW_SECONDS);
    if (window > this.#window) {
      this.#window = window;
      this.#counts.api = this.#counts.resolvers = 0;
    }
    const reset = Math.ceil((window + 1) * WINDOW_SECONDS - seconds);
    const most = this.#limits[bucket] ?? FREE[bucket];
    const left = Math.max(0, most - ++this.#counts[bucket]);
    const id = { "X-Request-Id": `Root=1-fake-${++this.#requests}` };
    if (this.#limits[bucket] !== undefined && this.#counts[bucket] > most) {
      const { status, headers = {}, body = "" } = rateLimited({ resetSeconds: reset, bucket });
      return { status, headers: { ...headers, ...id }, body: new TextEncoder().encode(body) };
    }
    const given = await answer();
    return {
      ...given,
      headers: {
        ...id,
        RateLimit: `"${bucket}";r=${left};t=${reset}`,
        "RateLimit-Policy": `"fixed window";"${bucket}";q=${most};w=${WINDOW_SECONDS}`,
        ...given.headers,
      },
    };
  }
}
