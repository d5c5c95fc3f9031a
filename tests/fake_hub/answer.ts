/** Requests and answers of the fake Hub, before they are bytes on a wire. */
import type { IncomingHttpHeaders, IncomingMessage } from "node:http";
import { BLOCK_BYTES, type Content } from "./content.ts";
import type { Origin } from "./faults.ts";

/** An answer. Content-Length is added by who sends it. */
export interface Answer {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array<ArrayBuffer> | FilePart;
}

/** Bytes `[begin, end)` of a file. */
export interface FilePart {
  readonly content: Content;
  readonly begin: number;
  readonly end: number;
}

/** A request. */
export interface Visit {
  readonly origin: Origin;
  readonly method: string;
  /** The address that was asked for; its path as it came, percent-encoded. */
  readonly url: URL;
  readonly headers: IncomingHttpHeaders;
  /** To read the body from. */
  readonly request: IncomingMessage;
}

/** An answer thrown: the request is refused. */
export class Refusal extends Error {
  readonly answer: Answer;

  constructor(answer: Answer) {
    super(`refused with ${answer.status}`);
    this.answer = answer;
  }
}

/** The bytes of a body, a block at a time. */
export async function* blocks(body: Answer["body"]): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  if (body === undefined) return;
  if (body instanceof Uint8Array) {
    if (body.length > 0) yield body;
    return;
  }
  for (let at = body.begin; at < body.end; at += BLOCK_BYTES) {
    yield await body.content.read(at, Math.min(body.end, at + BLOCK_BYTES));
  }
}

/** Bytes in a body. */
export function bodyLength(body: Answer["body"]): number {
  return body === undefined ? 0 : body instanceof Uint8Array ? body.length : body.end - body.begin;
}

/** The whole body of a request. */
export async function bodyOf({ request }: Visit): Promise<Uint8Array<ArrayBuffer>> {
  const parts: Uint8Array[] = [];
  for await (const part of request) parts.push(part as Uint8Array);
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** An answer in JSON. */
export function json(
  value: unknown,
  { status = 200, headers = {} }: { status?: number; headers?: Readonly<Record<string, string>> } =
    {},
): Answer {
  return {
    status,
    headers: { "Content-Type": "application/json; charset=utf-8", ...headers },
    body: new TextEncoder().encode(JSON.stringify(value)),
  };
}

/**
 * The answer that gives a file, or the range of it that is asked for. One range only, as object
 * stores do.
 */
export function fileAnswer(
  content: Content,
  range: string | undefined,
  headers: Readonly<Record<string, string>>,
): Answer {
  const { size } = content;
  const common = {
    "Accept-Ranges": "bytes",
    "Content-Type": "application/octet-stream",
    ...headers,
  };
  const [, first = "", last = ""] = /^bytes=(\d*)-(\d*)$/.exec(range ?? "") ?? [];
  if (first === "" && last === "") {
    return { status: 200, headers: common, body: { content, begin: 0, end: size } };
  }
  const begin = first === "" ? Math.max(0, size - Number(last)) : Number(first);
  const end = first === "" || last === "" ? size : Math.min(size, Number(last) + 1);
  if (begin >= end) {
    return { status: 416, headers: { ...common, "Content-Range": `bytes */${size}` } };
  }
  return {
    status: 206,
    headers: { ...common, "Content-Range": `bytes ${begin}-${end - 1}/${size}` },
    body: { content, begin, end },
  };
}
