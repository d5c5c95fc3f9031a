/**
 * Time and chance, in one object that tests replace, and how long to wait before a request is made
 * again.
 */

/** What retries need of the world. */
export interface Timing {
  /** Milliseconds since 1970. */
  now(): number;
  /** From 0, below 1. */
  random(): number;
  /** @throws the signal's reason when it is aborted. */
  wait(milliseconds: number, signal?: AbortSignal): Promise<void>;
}

/** The machine's clock. */
export const machineTiming: Timing = {
  now: () => Date.now(),
  random: () => Math.random(),
  wait: (milliseconds, signal) =>
    new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const stop = () => {
        clearTimeout(timer);
        reject(signal!.reason);
      };
      const timer = setTimeout(() => {
        signal?.removeEventListener("abort", stop);
        resolve();
      }, milliseconds);
      signal?.addEventListener("abort", stop, { once: true });
    }),
};

/**
 * The longest wait that a server may ask for, the Hub's window of five minutes; longer ones are
 * told to the user instead.
 */
export const LONGEST_WAIT = 301_000;

/**
 * Full jitter: anything from nothing to 1, 2, 4 … 30 seconds, so that many clients do not come back
 * at once.
 */
export function backoff(failures: number, timing: Timing): number {
  return timing.random() * Math.min(30_000, 1000 * 2 ** (failures - 1));
}

/**
 * How long a server asks to wait, in milliseconds; undefined when it does not.
 *
 * `RateLimit: "resolvers";r=0;t=55` counts only with nothing remaining (`r=0`), as it comes with
 * every answer (IETF draft-ietf-httpapi-ratelimit-headers); `Retry-After` is in seconds or a date
 * (RFC 9110 §10.2.3).
 */
export function askedWait(headers: Headers, timing: Timing): number | undefined {
  const waits: number[] = [];
  const limit = headers.get("ratelimit");
  if (limit !== null && /;\s*r=0(?![\d.])/.test(limit)) {
    const [, seconds] = /;\s*t=(\d{1,9})(?![\d.])/.exec(limit) ?? [];
    if (seconds !== undefined) waits.push((Number(seconds) + 1) * 1000);
  }
  const after = headers.get("retry-after")?.trim();
  if (after !== undefined) {
    const wait = /^\d{1,9}$/.test(after) ? Number(after) * 1000 : Date.parse(after) - timing.now();
    if (Number.isFinite(wait)) waits.push(Math.max(0, wait));
  }
  return waits.length > 0 ? Math.max(...waits) : undefined;
}
