/**
 * A journal: a file of JSON lines that only grows, each with the SHA-256 of what it says, and each
 * on the disk before the next thing is done. A last line that was not written whole is as if it had
 * never been; a line before it that is damaged is refused, because nothing after it can be trusted.
 */
import { quote, RequestError } from "../errors.ts";
import { sha256 } from "../hash.ts";
import { isObject } from "../json.ts";
import type { Disk } from "./disk.ts";

/** What a journal file holds. */
export interface JournalText {
  readonly records: readonly unknown[];
  /** Bytes of the lines that are whole. */
  readonly bytes: number;
}

/** A journal that can be added to. */
export interface Journal extends AsyncDisposable {
  /** Every record, the first first. */
  readonly records: readonly unknown[];
  /**
   * Add a record; it is on the disk when this resolves. Calls may overlap in time.
   *
   * @throws {SpaceError} the system refuses it.
   */
  append(record: unknown): Promise<void>;
}

/**
 * Read a journal.
 *
 * @throws {RequestError} a line is damaged, and it is not the last.
 * @throws {SpaceError} the system refuses it.
 */
export async function readJournal(disk: Disk, path: string): Promise<JournalText> {
  await using reader = await disk.open(path, { growing: true });
  const bytes = await reader.read(0, reader.size);
  const records: unknown[] = [];
  let begin = 0;
  for (;;) {
    const end = bytes.indexOf(NEWLINE, begin);
    if (end < 0) break;
    const record = await parseLine(bytes.subarray(begin, end));
    if (record === undefined) {
      // What stands behind it was written later, so it was whole once.
      if (end + 1 === bytes.length) break;
      throw new RequestError(
        `Cannot go on by ${quote(path)}: its line ${
          records.length + 1
        } is damaged. Begin anew with \`restart\`.`,
      );
    }
    records.push(record.value);
    begin = end + 1;
  }
  return { records, bytes: begin };
}

/**
 * Open a journal to add to it: a new one, or one whose whole lines were read.
 *
 * @throws {SpaceError} the system refuses it.
 */
export async function openJournal(
  disk: Disk,
  path: string,
  known?: JournalText,
): Promise<Journal> {
  const records = [...known?.records ?? []];
  let at = known?.bytes ?? 0;
  // A line that was not written whole is cut off.
  const writer = known ? await disk.reopen(path, at) : await disk.create(path, 0);
  let last: Promise<unknown> = Promise.resolve();
  const write = async (record: unknown) => {
    const line = await writeLine(record);
    await writer.write(at, line);
    await writer.sync();
    at += line.length;
    records.push(record);
  };
  return {
    records,
    append(record) {
      const written = last.then(() => write(record));
      // Whoever asked for a record hears that it failed; the next one is tried all the same.
      last = written.catch(() => {});
      return written;
    },
    [Symbol.asyncDispose]: () => writer[Symbol.asyncDispose](),
  };
}

const NEWLINE = 10;
/** A line is `{"sha256":"…","record":…}`; the hash is of the record's own text. */
const LINE = /^\{"sha256":"([0-9a-f]{64})","record":(.*)\}$/s;

async function writeLine(record: unknown): Promise<Uint8Array<ArrayBuffer>> {
  const text = JSON.stringify(record, wordedNumbers);
  return new TextEncoder().encode(`{"sha256":"${await sha256(text)}","record":${text}}\n`);
}

/** The record of a line; undefined where the line is damaged. */
async function parseLine(bytes: Uint8Array): Promise<{ readonly value: unknown } | undefined> {
  const [, hash, text] = LINE.exec(new TextDecoder().decode(bytes)) ?? [];
  if (text === undefined || await sha256(text) !== hash) return undefined;
  return { value: JSON.parse(text, readNumbers) };
}

/** Numbers that JSON has no word for, as objects: what is read is what was written, to the bit. */
function wordedNumbers(_key: string, value: unknown): unknown {
  if (typeof value !== "number" || Number.isFinite(value) && !Object.is(value, -0)) return value;
  return { number: Object.is(value, -0) ? "-0" : String(value) };
}

function readNumbers(_key: string, value: unknown): unknown {
  if (!isObject(value) || typeof value.number !== "string") return value;
  return Number(value.number);
}
