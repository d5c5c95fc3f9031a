/**
 * One request and its answer, with a body that is read into given memory; by this thread's `fetch`,
 * or by another thread (network_thread.ts).
 */
import type { Buffers } from "./buffer_pool.ts";

/** What is asked. */
export interface FetchOptions {
  readonly method: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string | Blob;
  readonly signal: AbortSignal;
  /** Milliseconds the server may be silent: bytes that came are handed on sooner. */
  readonly idle: number;
}

/** What a server answers. Its body is read once, or discarded. */
export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  /** @param buffers Where the body is put. */
  read(buffers: Buffers): BodyReader;
  /** Close the connection without reading the body. */
  discard(): Promise<void>;
}

/** Reads the body of an answer. */
export interface BodyReader {
  /** The next bytes in one of the buffers, which is the caller's to give back; undefined at the end. */
  next(): Promise<Uint8Array<ArrayBuffer> | undefined>;
  /** Close the connection, unless all was read. */
  close(): Promise<void>;
}

/**
 * Makes a request, and follows no redirect.
 *
 * @throws {TypeError} every fault of the network (Fetch standard §5.6), by `BodyReader.next` too.
 */
export type Fetching = (url: URL, options: FetchOptions) => Promise<Answer>;

/** Requests by a `fetch` such as this thread's. */
export function fetchingBy(fetch: typeof globalThis.fetch): Fetching {
  return async (url, { idle: _, ...init }) => {
    const { status, headers, body } = await fetch(url, { ...init, redirect: "manual" });
    return {
      status,
      headers,
      read: (buffers) => bodyReader(body, buffers),
      discard: async () => await body?.cancel(),
    };
  };
}

function bodyReader(body: ReadableStream<Uint8Array> | null, buffers: Buffers): BodyReader {
  // Read into a buffer of ours: a stream that makes its own makes one for every 60 kB.
  const reader = body?.getReader({ mode: "byob" });
  let open = reader !== undefined;
  return {
    async next() {
      if (!open) return undefined;
      // Not again after a fault.
      open = false;
      const { done, value } = await reader!.read(buffers.take());
      open = !done;
      if (!done) return value;
      if (value) buffers.give(value);
      return undefined;
    },
    async close() {
      if (open) await reader!.cancel();
    },
  };
}
