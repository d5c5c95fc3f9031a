/**
 * The servers of the fake Hub: requests in, answers out, all written down, and bodies streamed by
 * range. On node:http and not Deno.serve, because it lends its sockets: a body can be cut at an
 * exact byte and a connection reset, which faults need.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { type Answer, blocks, bodyLength, Refusal, type Visit } from "./answer.ts";
import type { Fault, Faults, Origin } from "./faults.ts";
import { isFraming, sendSpoiled, spoil } from "./spoil.ts";

/** What the log keeps of a request. Never a token. */
export interface LogEntry {
  readonly origin: Origin;
  readonly method: string;
  /** Path and query, percent-encoding removed from the path. */
  readonly path: string;
  readonly range: string | undefined;
  /** Whether it had an Authorization header. */
  readonly authorization: boolean;
  readonly userAgent: string | undefined;
  /** Milliseconds since the fake began. */
  readonly at: number;
  /** 0 while there is no answer, and when there was none. */
  status: number;
  /** Bytes of the body that went to the client. */
  sent: number;
  /** What went wrong on purpose. */
  fault: Fault["kind"] | undefined;
  /** Whether the answer was sent to its end, or to the end that a fault gave it. */
  done: boolean;
}

/** One of the two servers, listening. */
export interface Listener extends AsyncDisposable {
  readonly port: number;
}

/** What a server does with a request, and where it writes down what it did. */
export interface ListenOptions {
  readonly origin: Origin;
  /** 0 for any. */
  readonly port: number;
  readonly faults: Faults;
  readonly log: LogEntry[];
  /** Told of mistakes in the fake itself. */
  readonly bugs: unknown[];
  readonly answer: (visit: Visit) => Promise<Answer>;
  /** Ends what waits; abort it before the listener is disposed. */
  readonly stop: AbortSignal;
}

/**
 * Start a server on loopback. Disposing it closes all connections and waits until every request has
 * ended.
 */
export async function listen(options: ListenOptions): Promise<Listener> {
  const running = new Set<Promise<void>>();
  const began = performance.now();
  const server = createServer((request, response) => {
    const run = serve(request, response, { ...options, began });
    running.add(run);
    run.finally(() => running.delete(run));
  });
  // A client may think between two requests as long as it likes.
  Object.assign(server, { keepAliveTimeout: 0, requestTimeout: 0, headersTimeout: 0, timeout: 0 });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(options.port, "127.0.0.1", resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
      await Promise.all(running);
    },
  };
}

async function serve(
  request: IncomingMessage,
  response: ServerResponse,
  { origin, faults, log, bugs, answer: handle, stop, began }:
    & ListenOptions
    & { readonly began: number },
): Promise<void> {
  const { method = "GET", headers } = request;
  const url = new URL(`http://${headers.host ?? "127.0.0.1"}${request.url ?? "/"}`);
  const path = readable(url);
  const entry: LogEntry = {
    origin,
    method,
    path,
    range: headers.range,
    authorization: headers.authorization !== undefined,
    userAgent: headers["user-agent"],
    at: performance.now() - began,
    status: 0,
    sent: 0,
    fault: undefined,
    done: false,
  };
  // What a person says to the fake itself is neither written down nor spoiled.
  const control = origin === "hub" && path.startsWith("/_");
  if (!control) log.push(entry);
  // Clients leave when they like; whoever waits for the connection sees it closed.
  for (const end of [request, response]) end.on("error", () => undefined);
  try {
    const target = { origin, method, path };
    const visit = { origin, method, url, headers, request };
    let fault = control ? undefined : faults.early(target);
    let answer: Answer;
    if (fault && fault.kind !== "delay") {
      entry.fault = fault.kind;
      if (fault.kind !== "reset") await drain(request);
      else if (fault.after !== undefined) await take(request, fault.after);
      answer = await spoil({ status: 200 }, fault, url);
    } else {
      if (fault) {
        entry.fault = fault.kind;
        await pause(fault.ms, stop);
      }
      answer = await attempt(() => handle(visit));
      // What a refused request still has to say would stand before the next one on the connection.
      request.resume();
      fault = control ? undefined : faults.late(target, answer);
      if (fault) {
        entry.fault = fault.kind;
        answer = await spoil(answer, fault, url);
      }
    }
    const sent = (bytes: number) => {
      entry.sent += bytes;
    };
    if (fault && isFraming(fault)) {
      entry.status = fault.kind === "reset" ? 0 : answer.status;
      await sendSpoiled(response, answer, { fault, head: method === "HEAD", sent, stop });
      entry.done = true;
    } else {
      entry.status = answer.status;
      entry.done = await send(response, answer, { head: method === "HEAD", sent });
    }
  } catch (error) {
    if (!stop.aborted && !request.destroyed) bugs.push(error);
    response.destroy();
  }
}

/** Path and query as a person writes them. */
function readable(url: URL): string {
  try {
    return decodeURIComponent(url.pathname) + url.search;
  } catch (error) {
    if (error instanceof URIError) return url.pathname + url.search;
    throw error;
  }
}

async function attempt(handle: () => Promise<Answer>): Promise<Answer> {
  try {
    return await handle();
  } catch (error) {
    if (error instanceof Refusal) return error.answer;
    throw error;
  }
}

/** Read a request to its end: clients listen for answers when they have said everything. */
async function drain(request: IncomingMessage): Promise<void> {
  for await (const _ of request);
}

/** Read so many bytes of a request, or all there are. */
async function take(request: IncomingMessage, bytes: number): Promise<void> {
  let taken = 0;
  await new Promise<void>((resolve) => {
    request.on("data", ({ length }: Uint8Array) => {
      taken += length;
      if (taken < bytes) return;
      request.pause();
      resolve();
    });
    request.on("close", resolve);
    request.on("end", resolve);
  });
}

/** Wait, or throw when the server stops. */
export async function pause(ms: number, stop: AbortSignal): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  await new Promise<void>((resolve, reject) => {
    timer = setTimeout(resolve, ms);
    stop.addEventListener("abort", () => reject(stop.reason), { once: true });
  }).finally(() => clearTimeout(timer));
}

/** Send an answer. Returns whether the client took all of it. */
async function send(
  response: ServerResponse,
  answer: Answer,
  { head, sent }: { readonly head: boolean; readonly sent: (bytes: number) => void },
): Promise<boolean> {
  response.writeHead(answer.status, {
    ...answer.headers,
    ...(answer.status === 204 || answer.status === 304
      ? {}
      : { "Content-Length": String(bodyLength(answer.body)) }),
  });
  if (!head) {
    for await (const block of blocks(answer.body)) {
      if (response.destroyed) return false;
      const flowing = response.write(block);
      sent(block.length);
      if (!flowing) await eventOf(response, "drain");
    }
  }
  if (response.destroyed) return false;
  response.end();
  return true;
}

/** Wait for an event, or until the connection is closed. */
export async function eventOf(response: ServerResponse, event: string): Promise<void> {
  if (response.destroyed) return;
  await new Promise<void>((resolve) => {
    function done() {
      response.off(event, done);
      response.off("close", done);
      resolve();
    }
    response.on(event, done);
    response.on("close", done);
  });
}
