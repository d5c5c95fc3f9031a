/** Faults that a test switches on: which requests they hit, how often, and what happens then. */
import type { Answer } from "./answer.ts";

/** The two servers: the Hub itself, and where large files are. */
export type Origin = "hub" | "storage";

/**
 * What goes wrong. Offsets count from the start of the file, for other answers from the start of
 * the body.
 */
export type Fault =
  /** Another answer, before the request has any effect: 5xx, 429, 403… */
  | {
    readonly kind: "status";
    readonly status: number;
    readonly headers?: Readonly<Record<string, string>>;
    readonly body?: string;
  }
  /** A page for people, with status 200, instead of what was asked for. */
  | { readonly kind: "html" }
  /**
   * A redirect to a place, or `"self"`, or without a place; the Nth hit of `"hops"` is at `?hop=N`.
   */
  | {
    readonly kind: "redirect";
    readonly to: string | undefined;
    readonly status?: 301 | 302 | 303 | 307 | 308;
  }
  /**
   * The connection is reset before any answer. On a connection that was used before, fetch tries
   * once more by itself. `after` so many bytes of the request's body were read, 0 unless given.
   */
  | { readonly kind: "reset"; readonly after?: number }
  /** The answer comes late. */
  | { readonly kind: "delay"; readonly ms: number }
  /** The request has its effect, but its answer is lost: a reset, or another status. */
  | { readonly kind: "lost"; readonly status?: number }
  /**
   * The body ends at an offset, half-way unless given: closed, reset, or silent for ever. Hits
   * ranges that hold the offset.
   */
  | { readonly kind: "cut"; readonly at?: number; readonly how: "close" | "reset" | "stall" }
  /**
   * The body is `by` bytes too short, and nothing in its framing says so; Content-Range, if any,
   * says more.
   */
  | { readonly kind: "short"; readonly by: number; readonly framing: Framing }
  /** The body is `by` bytes too long. */
  | { readonly kind: "long"; readonly by: number; readonly framing: Framing }
  /** Content-Length is wrong by so many bytes, then the connection is closed. */
  | { readonly kind: "length"; readonly by: number }
  /** A 200 with the whole file to a request for a range. */
  | { readonly kind: "ignore_range" }
  /** Another Content-Range, or none. */
  | { readonly kind: "content_range"; readonly value: string | undefined }
  /**
   * The byte at an offset is changed by exclusive or, with 1 unless given. Hits ranges that hold
   * the offset.
   */
  | { readonly kind: "corrupt"; readonly at: number; readonly xor?: number }
  /** Packed with gzip, whatever the client accepts. */
  | { readonly kind: "gzip" }
  /** `multipart/byteranges` for one range. */
  | { readonly kind: "multipart" }
  /** The body in writes of so many bytes. */
  | { readonly kind: "dribble"; readonly size: number; readonly ms?: number }
  /** The answer as a function of the right one: a listing that lies, a header that is missing. */
  | {
    readonly kind: "answer";
    readonly change: (answer: Answer) => Answer | Promise<Answer>;
  };

/** How an answer tells where its body ends: by its length, by a last chunk, by closing. */
export type Framing = "length" | "chunked" | "close";

/** Which requests a fault hits. */
export interface FaultMatch {
  readonly on?: Origin;
  readonly method?: string;
  /** Part of the path with its query, percent-encoding removed; or a pattern of it. */
  readonly path?: string | RegExp;
  /** Requests that match and are let pass before the first hit: 0 unless given. */
  readonly skip?: number;
  /** Hits before the fault is over: 1 unless given. */
  readonly times?: number;
}

/** A fault that was switched on. */
export interface ActiveFault {
  readonly fault: Fault;
  /** Requests hit so far. */
  readonly hits: number;
  /** Switch it off. */
  remove(): void;
}

/** What a fault needs to know of a request. */
export interface FaultTarget {
  readonly origin: Origin;
  readonly method: string;
  readonly path: string;
}

/** Kinds that act before the request has an effect. */
const EARLY: ReadonlySet<Fault["kind"]> = new Set(["status", "html", "redirect", "reset", "delay"]);

interface Armed {
  readonly fault: Fault;
  readonly match: FaultMatch;
  hits: number;
  passed: number;
}

/** The faults of a fake Hub. Of those that match a request, the first that was added acts. */
export class Faults {
  #armed: Armed[] = [];

  /** Switch a fault on. */
  add(spec: Fault & FaultMatch): ActiveFault {
    const armed: Armed = { fault: spec, match: spec, hits: 0, passed: 0 };
    this.#armed.push(armed);
    return {
      fault: spec,
      get hits() {
        return armed.hits;
      },
      remove: () => {
        this.#armed = this.#armed.filter((other) => other !== armed);
      },
    };
  }

  /** Switch all faults off. */
  clear(): void {
    this.#armed = [];
  }

  /** The fault that acts before a request is handled. */
  early(target: FaultTarget): Fault | undefined {
    return this.#take(target, (fault) => EARLY.has(fault.kind));
  }

  /** The fault that acts on an answer. */
  late(target: FaultTarget, answer: Answer): Fault | undefined {
    return this.#take(target, (fault) => !EARLY.has(fault.kind) && fits(fault, answer));
  }

  #take(
    { origin, method, path }: FaultTarget,
    accepts: (fault: Fault) => boolean,
  ): Fault | undefined {
    for (const armed of this.#armed) {
      const { match } = armed;
      if (match.on !== undefined && match.on !== origin) continue;
      if (match.method !== undefined && match.method !== method) continue;
      const { path: wanted = "" } = match;
      if (typeof wanted === "string" ? !path.includes(wanted) : !wanted.test(path)) continue;
      if (!accepts(armed.fault) || armed.hits >= (match.times ?? 1)) continue;
      if (armed.passed < (match.skip ?? 0)) {
        armed.passed++;
        continue;
      }
      armed.hits++;
      return armed.fault;
    }
    return undefined;
  }
}

/** Whether there is anything in an answer that a fault could spoil. */
function fits(fault: Fault, { status, body, headers }: Answer): boolean {
  if (fault.kind === "answer" || fault.kind === "lost") return true;
  if (body === undefined || status >= 300) return false;
  if (fault.kind === "ignore_range" || fault.kind === "multipart") return status === 206;
  if (fault.kind === "content_range") return headers?.["Content-Range"] !== undefined;
  if ((fault.kind === "cut" || fault.kind === "corrupt") && fault.at !== undefined) {
    const { begin, end } = bodySpan(body);
    return fault.at >= begin && fault.at < end;
  }
  return true;
}

/** Where in its file a body begins and ends. */
export function bodySpan(
  body: NonNullable<Answer["body"]>,
): { readonly begin: number; readonly end: number } {
  return body instanceof Uint8Array ? { begin: 0, end: body.length } : body;
}

/** 429 as the Hub says it. Without options it says nothing of the time to wait. */
export function rateLimited(
  { retryAfter, resetSeconds, bucket = "resolvers" }: {
    /** Retry-After: seconds or a date. */
    readonly retryAfter?: number | Date;
    /** `t` of the RateLimit header. */
    readonly resetSeconds?: number;
    readonly bucket?: "api" | "resolvers" | "pages";
  } = {},
): Fault & { readonly kind: "status" } {
  const headers: Record<string, string> = {};
  if (retryAfter !== undefined) {
    headers["Retry-After"] = typeof retryAfter === "number"
      ? String(retryAfter)
      : retryAfter.toUTCString();
  }
  if (resetSeconds !== undefined) {
    headers["RateLimit"] = `"${bucket}";r=0;t=${resetSeconds}`;
    headers["RateLimit-Policy"] = `"fixed window";"${bucket}";q=500;w=300`;
  }
  const body = JSON.stringify({ error: "We had to rate limit you." });
  return { kind: "status", status: 429, headers, body };
}

/** What the storage says to an address that is too old. */
export function expiredUrl(): Fault & { readonly kind: "status" } {
  return {
    kind: "status",
    status: 403,
    headers: { "Content-Type": "application/xml" },
    body: `<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code>` +
      `<Message>Request has expired</Message></Error>`,
  };
}

/**
 * An answer in JSON as a function of the right one: a tree with a wrong hash, a file that is
 * missing.
 */
export function changedJson<T>(change: (value: T) => unknown): Fault & { readonly kind: "answer" } {
  return {
    kind: "answer",
    change({ body, ...answer }) {
      if (!(body instanceof Uint8Array)) {
        throw new TypeError("changedJson() was switched on for an answer that is not JSON.");
      }
      const value = JSON.parse(new TextDecoder().decode(body)) as T;
      return { ...answer, body: new TextEncoder().encode(JSON.stringify(change(value))) };
    },
  };
}
