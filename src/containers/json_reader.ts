/**
 * A strict reader of JSON from an untrusted file, a token at a time, for headers and indexes.
 * Refused: bytes that are not UTF-8, duplicate keys at any level (JSON.parse keeps the last and
 * tells nobody), lone surrogates, nesting deeper than `MAX_DEPTH`, and text after the value.
 * Integers are exact: `0|[1-9][0-9]*` up to 2^53 − 1, where JSON.parse would round.
 */
import { CheckpointError, quote } from "../errors.ts";
import { impostor, START_BYTES } from "./impostors.ts";

/** How deep objects and arrays may nest. */
export const MAX_DEPTH = 64;

const QUOTE = 0x22, COMMA = 0x2c, COLON = 0x3a, BACKSLASH = 0x5c;
const OPEN_BRACKET = 0x5b, CLOSE_BRACKET = 0x5d, OPEN_BRACE = 0x7b, CLOSE_BRACE = 0x7d;

/** Where a text comes from. */
export interface JsonOrigin {
  readonly file: string;
  /** The text's name in messages: `its header`. */
  readonly what: string;
  /** Byte of the file at which the text begins. */
  readonly offset?: number;
  /** Whether a key may come twice in an object. */
  readonly duplicates?: boolean;
}

/**
 * A position in a JSON text. Each method reads one thing and moves behind it, or throws
 * `CheckpointError`.
 */
export class JsonReader {
  readonly #text: string;
  readonly #origin: JsonOrigin;
  #at = 0;
  #depth = 0;
  /** The tensor being read, for messages. */
  tensor: string | undefined;

  /** @throws {CheckpointError} the bytes are not UTF-8. */
  constructor(bytes: Uint8Array, origin: JsonOrigin) {
    this.#origin = origin;
    this.#text = decodeText(bytes, origin);
  }

  /** Give up: `found` continues “its header …”. */
  fail(found: string, at = this.#at): never {
    const { file, what, offset = 0 } = this.#origin;
    const byte = offset + new TextEncoder().encode(this.#text.slice(0, at)).length;
    const of = this.tensor === undefined ? "" : ` for tensor ${quote(this.tensor)}`;
    throw new CheckpointError(
      `Cannot read ${quote(file)}: at byte ${byte}, ${what} ${found}${of}.`,
      {
        file,
        offset: byte,
        ...(this.tensor === undefined ? {} : { tensor: this.tensor }),
      },
    );
  }

  /**
   * The keys of an object, one at a time; the caller reads the value of each before it asks for the
   * next.
   */
  *keys(what: string): Generator<string, void, undefined> {
    this.#open(OPEN_BRACE, what);
    const seen = new Set<string>();
    if (this.#peek() === CLOSE_BRACE) this.#at++;
    else {
      for (;;) {
        const at = this.#at;
        const key = this.string("a key");
        if (seen.has(key) && !this.#origin.duplicates) {
          this.fail(`has the key ${quote(key)} twice in ${what}`, at);
        }
        seen.add(key);
        if (this.#peek() !== COLON) this.#expected("a colon");
        this.#at++;
        yield key;
        if (!this.#more(CLOSE_BRACE, what)) break;
      }
    }
    this.#depth--;
  }

  /**
   * The places of an array's items, one at a time; the caller reads the item at each before it asks
   * for the next.
   */
  *items(what: string): Generator<number, void, undefined> {
    this.#open(OPEN_BRACKET, what);
    if (this.#peek() === CLOSE_BRACKET) this.#at++;
    else {
      let index = 0;
      do yield index++; while (this.#more(CLOSE_BRACKET, what));
    }
    this.#depth--;
  }

  /** A string, its escapes resolved. */
  string(what: string): string {
    if (this.#peek() !== QUOTE) this.#expected(`a string (${what})`);
    const text = this.#text, begin = this.#at;
    let escaped = false, at = begin + 1;
    for (;; at++) {
      const code = text.charCodeAt(at);
      if (code === QUOTE) break;
      if (code === BACKSLASH) {
        escaped = true;
        at++;
      } else if (!(code >= 0x20)) { // a control character, or NaN at the end of the text
        this.fail(
          Number.isNaN(code)
            ? "ends within a string"
            : "has a control character that is not escaped in a string",
          Math.min(at, text.length),
        );
      }
    }
    this.#at = at + 1;
    return escaped ? this.#unescape(begin) : text.slice(begin + 1, at);
  }

  /** A whole number from 0 to 2^53 − 1, written as digits alone. */
  integer(what: string): number {
    const first = this.#peek();
    const begin = this.#at;
    let value = 0, at = begin;
    for (;; at++) {
      const digit = this.#text.charCodeAt(at) - 0x30;
      if (!(digit >= 0 && digit <= 9)) break;
      value = value * 10 + digit;
      if (value > Number.MAX_SAFE_INTEGER) {
        this.fail(`has a number over ${Number.MAX_SAFE_INTEGER} as ${what}`, begin);
      }
    }
    const next = this.#text[at];
    if (
      at === begin || (first === 0x30 && at - begin > 1) ||
      next === "." || next === "e" || next === "E"
    ) this.#expected(`${what}, a whole number that is not negative, in plain digits`);
    this.#at = at;
    return value;
  }

  /** Read `null` if it is there. */
  null(): boolean {
    this.#peek();
    if (!this.#text.startsWith("null", this.#at)) return false;
    this.#at += 4;
    return true;
  }

  /** Read any value and forget it; all rules hold within it. */
  skip(): void {
    const code = this.#peek();
    if (code === OPEN_BRACE) { for (const _ of this.keys("an object")) this.skip(); }
    else if (code === OPEN_BRACKET) { for (const _ of this.items("an array")) this.skip(); }
    else if (code === QUOTE) this.string("a value");
    else {
      const scalar = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y;
      scalar.lastIndex = this.#at;
      if (!scalar.test(this.#text)) this.#expected("a value");
      this.#at = scalar.lastIndex;
    }
  }

  /** Nothing but white space may follow. */
  end(): void {
    if (!Number.isNaN(this.#peek())) this.#expected("nothing more");
  }

  /** The next character that is not white space, or NaN at the end. */
  #peek(): number {
    for (;; this.#at++) {
      const code = this.#text.charCodeAt(this.#at);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return code;
    }
  }

  #open(bracket: number, what: string): void {
    if (this.#peek() !== bracket) {
      this.#expected(`${what}, ${bracket === OPEN_BRACE ? "an object" : "an array"}`);
    }
    if (++this.#depth > MAX_DEPTH) this.fail(`nests more than ${MAX_DEPTH} levels deep`);
    this.#at++;
  }

  /** Whether a comma follows (and, if not, that the bracket does). */
  #more(bracket: number, what: string): boolean {
    const code = this.#peek();
    if (code !== COMMA && code !== bracket) {
      this.#expected(`a comma or “${String.fromCharCode(bracket)}” in ${what}`);
    }
    this.#at++;
    return code === COMMA;
  }

  #unescape(begin: number): string {
    let value: string;
    try {
      value = JSON.parse(this.#text.slice(begin, this.#at)) as string;
    } catch (cause) {
      if (!(cause instanceof SyntaxError)) throw cause;
      return this.fail("has a broken escape in a string", begin);
    }
    if (!value.isWellFormed()) this.fail("has half a surrogate pair in a string", begin);
    return value;
  }

  #expected(what: string): never {
    const found = this.#at >= this.#text.length
      ? "ends"
      : `has ${quote(this.#text.slice(this.#at, this.#at + 12))}`;
    this.fail(`${found} where ${what} was expected`);
  }
}

/**
 * Text of an untrusted file that should hold JSON.
 *
 * @throws {CheckpointError} the bytes are not UTF-8, or seem to be another kind of file.
 */
export function decodeText(
  bytes: Uint8Array,
  { file, what, offset = 0 }: Pick<JsonOrigin, "file" | "what" | "offset">,
): string {
  const first = bytes.find((byte) => byte > 0x20);
  if (first !== OPEN_BRACE && first !== OPEN_BRACKET) {
    const seems = impostor(bytes.subarray(0, START_BYTES));
    if (seems !== undefined) {
      throw new CheckpointError(`Cannot read ${quote(file)}: it is no JSON. It is ${seems}.`, {
        file,
        offset,
      });
    }
  }
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause;
    throw new CheckpointError(
      `Cannot read ${quote(file)}: ${what}, from byte ${offset}, is not UTF-8 text. ` +
        `The file is damaged or not what its name says: download it again.`,
      { file, offset, cause },
    );
  }
}
