/**
 * What faults do: to an answer before it is sent, and to the bytes on the wire, which are written
 * by hand then.
 */
import type { ServerResponse } from "node:http";
import { gzipSync } from "node:zlib";
import type { Content } from "./content.ts";
import { bodySpan, type Fault } from "./faults.ts";
import { type Answer, blocks, bodyLength } from "./answer.ts";
import { eventOf, pause } from "./wire.ts";

/** Faults that need the socket. */
type FramingFault = Extract<
  Fault,
  { readonly kind: "reset" | "lost" | "cut" | "short" | "long" | "length" | "dribble" }
>;

const FRAMING: ReadonlySet<Fault["kind"]> = new Set([
  "reset",
  "lost",
  "cut",
  "short",
  "long",
  "length",
  "dribble",
]);

/** Whether a fault shows on the wire, and not in the answer. */
export function isFraming(fault: Fault): fault is FramingFault {
  return FRAMING.has(fault.kind) && !(fault.kind === "lost" && fault.status !== undefined);
}

/** An answer as a fault makes it. Faults of the wire leave it alone. */
export async function spoil(answer: Answer, fault: Fault, url: URL): Promise<Answer> {
  switch (fault.kind) {
    case "status":
      return { status: fault.status, headers: fault.headers ?? {}, body: text(fault.body ?? "") };
    case "lost":
      return fault.status === undefined ? answer : {
        status: fault.status,
        headers: { "Content-Type": "text/html" },
        body: text(`<html><body><h1>${fault.status} Gateway Time-out</h1></body></html>`),
      };
    case "html":
      return {
        status: 200,
        headers: { "Content-Type": "text/html; charset=utf-8" },
        body: text(`<!DOCTYPE html><html><body>Sign in to this network to go on.</body></html>`),
      };
    case "redirect":
      return { status: fault.status ?? 302, headers: location(fault.to, url) };
    case "ignore_range": {
      const { body } = answer;
      if (body === undefined || body instanceof Uint8Array) return answer;
      const { "Content-Range": _, ...headers } = answer.headers ?? {};
      return { status: 200, headers, body: { ...body, begin: 0, end: body.content.size } };
    }
    case "content_range": {
      const { "Content-Range": _, ...headers } = answer.headers ?? {};
      return fault.value === undefined
        ? { ...answer, headers }
        : { ...answer, headers: { ...headers, "Content-Range": fault.value } };
    }
    case "corrupt":
      return { ...answer, body: corrupted(answer.body!, fault.at, fault.xor ?? 1) };
    case "gzip":
      return {
        ...answer,
        headers: { ...answer.headers, "Content-Encoding": "gzip" },
        body: Uint8Array.from(gzipSync(await whole(answer.body))),
      };
    case "multipart":
      return await byteRanges(answer);
    case "answer":
      return await fault.change(answer);
    default:
      return answer;
  }
}

function location(to: string | undefined, url: URL): Record<string, string> {
  if (to === undefined) return {};
  if (to === "self") return { Location: url.href };
  if (to !== "hops") return { Location: to };
  const next = new URL(url);
  next.searchParams.set("hop", String(Number(next.searchParams.get("hop") ?? 0) + 1));
  return { Location: next.href };
}

function text(words: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(words);
}

async function whole(body: Answer["body"]): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(bodyLength(body));
  let at = 0;
  for await (const block of blocks(body)) {
    bytes.set(block, at);
    at += block.length;
  }
  return bytes;
}

function corrupted(
  body: NonNullable<Answer["body"]>,
  at: number,
  xor: number,
): NonNullable<Answer["body"]> {
  function flip(bytes: Uint8Array<ArrayBuffer>, begin: number): Uint8Array<ArrayBuffer> {
    if (at < begin || at >= begin + bytes.length) return bytes;
    const changed = bytes.slice();
    changed[at - begin]! ^= xor;
    return changed;
  }
  if (body instanceof Uint8Array) return flip(body, 0);
  const content: Content = {
    ...body.content,
    read: async (begin, end) => flip(await body.content.read(begin, end), begin),
  };
  return { ...body, content };
}

async function byteRanges(answer: Answer): Promise<Answer> {
  const { "Content-Range": range = "", ...headers } = answer.headers ?? {};
  const parts = [
    text(`\r\n--PART\r\nContent-Type: application/octet-stream\r\nContent-Range: ${range}\r\n\r\n`),
    await whole(answer.body),
    text("\r\n--PART--\r\n"),
  ];
  return {
    status: 206,
    headers: { ...headers, "Content-Type": "multipart/byteranges; boundary=PART" },
    body: new Uint8Array(await new Blob(parts).arrayBuffer()),
  };
}

/** How a body is framed, and which bytes of it go out. */
interface Wire {
  /** Framing as the head tells it. */
  readonly framing: "length" | "chunked" | "close";
  /** Content-Length, where that is the framing. */
  readonly told: number;
  /** Bytes that are sent: fewer than the body has, or more. */
  readonly bytes: number;
  /** Most bytes in a write. */
  readonly step: number;
  readonly ms: number;
  readonly end: "close" | "reset" | "stall" | "wait";
}

function wireOf(fault: FramingFault, answer: Answer): Wire {
  const length = bodyLength(answer.body);
  const plain: Wire = {
    framing: "length",
    told: length,
    bytes: length,
    step: Infinity,
    ms: 0,
    end: "close",
  };
  switch (fault.kind) {
    case "reset":
    case "lost":
      return { ...plain, end: "reset" };
    case "cut": {
      const { begin } = bodySpan(answer.body!);
      const bytes = fault.at === undefined ? length >> 1 : fault.at - begin;
      return { ...plain, bytes, end: fault.how };
    }
    case "short": {
      const bytes = Math.max(0, length - fault.by);
      return { ...plain, framing: fault.framing, told: bytes, bytes };
    }
    case "long": {
      const bytes = length + fault.by;
      return { ...plain, framing: fault.framing, told: bytes, bytes };
    }
    case "length":
      return { ...plain, told: Math.max(0, length + fault.by) };
    case "dribble":
      return { ...plain, step: fault.size, ms: fault.ms ?? 0, end: "wait" };
  }
}

/** Send an answer whose framing is wrong. The connection is closed after it. */
export async function sendSpoiled(
  response: ServerResponse,
  answer: Answer,
  { fault, head, sent, stop }: {
    readonly fault: FramingFault;
    readonly head: boolean;
    readonly sent: (bytes: number) => void;
    readonly stop: AbortSignal;
  },
): Promise<void> {
  const socket = response.socket;
  if (!socket || socket.destroyed) return;
  // Every write is flushed before the next: a reset would take what is waiting with it.
  const write = (bytes: Uint8Array) =>
    new Promise<void>((resolve) => void socket.write(bytes, () => resolve()));
  if (fault.kind === "reset" || fault.kind === "lost") {
    socket.resetAndDestroy();
    return;
  }
  socket.setNoDelay(true);
  const wire = wireOf(fault, answer);
  const headers = {
    ...answer.headers,
    Connection: "close",
    ...(wire.framing === "length" ? { "Content-Length": String(wire.told) } : {}),
    ...(wire.framing === "chunked" ? { "Transfer-Encoding": "chunked" } : {}),
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`).join("");
  await write(text(`HTTP/1.1 ${answer.status} Spoiled\r\n${lines}\r\n`));
  if (!head) {
    for await (const piece of pieces(answer.body, wire)) {
      if (socket.destroyed) return;
      if (wire.framing === "chunked") await write(text(`${piece.length.toString(16)}\r\n`));
      await write(piece);
      if (wire.framing === "chunked") await write(text("\r\n"));
      sent(piece.length);
      if (wire.ms > 0) await pause(wire.ms, stop);
    }
    if (wire.framing === "chunked") await write(text("0\r\n\r\n"));
  }
  if (wire.end === "reset") socket.resetAndDestroy();
  else if (wire.end === "stall") await eventOf(response, "close");
  else socket.end();
}

async function* pieces(body: Answer["body"], { bytes, step }: Wire): AsyncGenerator<Uint8Array> {
  let left = bytes;
  for await (const block of blocks(body)) {
    const piece = block.subarray(0, left);
    for (let at = 0; at < piece.length; at += step) yield piece.subarray(at, at + step);
    left -= piece.length;
    if (left === 0) return;
  }
  if (left > 0) yield new Uint8Array(left).fill(0x20);
}
