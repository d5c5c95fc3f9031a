/**
 * The rows of a file, texts or chats, one after another: parquet by range, JSON and CSV as they
 * stream, packed with gzip or not; a text is one row. The end of its name says what a file holds,
 * in capitals or not.
 */
import { Readable } from "node:stream";
import type { AsyncBuffer } from "hyparquet";
import { HubError, SpaceError } from "../errors.ts";
import type { HubClient, HubFile } from "../hub/client.ts";
import type { DiskReader } from "../io/disk.ts";
import { isObject } from "../json.ts";
import { type Fail, type Message, readMessages } from "./messages.ts";

/** Parquet files up to this size are read whole, so that their hash can be checked. */
const WHOLE = 32 * 2 ** 20;
/** Characters of a line: no text of a corpus is longer. */
const LONGEST_LINE = 64 * 2 ** 20;
/**
 * Characters of a file that is held whole, a text or a list in JSON: at a megabyte or so per
 * second, tokenizing it takes minutes.
 */
export const LARGEST_TEXT = 128 * 2 ** 20;
/** Bytes of a file of this machine that are read at a time. */
const CHUNK = 2 ** 20;

/** One row of a corpus. */
export interface Row {
  readonly content: string | readonly Message[];
  /** Where it is, for messages: `line 3`. */
  readonly where: string;
}

/** A file of rows, wherever it lies. */
export interface RowFile {
  readonly path: string;
  readonly size: number;
  /** Bytes `[begin, end)`. */
  read(begin: number, end: number): Promise<Uint8Array<ArrayBuffer>>;
  /** All bytes, checked against a hash where there is one. */
  readWhole(): Promise<Uint8Array<ArrayBuffer>>;
  /** All bytes, piece by piece. */
  stream(): AsyncIterable<Uint8Array<ArrayBuffer>>;
}

/** A file of a dataset on the Hub. */
export function hubRowFile(file: HubFile, client: HubClient): RowFile {
  const { path, size } = file;
  return {
    path,
    size,
    read: (begin, end) => client.read(file, { begin, end }),
    readWhole: () => client.readWhole(file),
    stream: () => client.stream(file, { begin: 0, end: size }),
  };
}

/** A file of this machine. */
export function diskRowFile(path: string, reader: DiskReader): RowFile {
  const { size } = reader;
  return {
    path,
    size,
    read: (begin, end) => reader.read(begin, end),
    readWhole: () => reader.read(0, size),
    async *stream() {
      for (let at = 0; at < size; at += CHUNK) {
        yield await reader.read(at, Math.min(size, at + CHUNK));
      }
    },
  };
}

/** How rows are read. */
export interface RowsOptions {
  readonly column: string;
  /** What to do where a table has no such column: the end of a sentence. */
  readonly advice: string;
  readonly fail: Fail;
}

/** The columns that may hold a row's text or chat, the first that is there. */
function columnsOf(column: string): readonly string[] {
  return column === "text" ? ["text", "messages", "conversations"] : [column];
}

/** Files with rows, by the end of their names; `.gz` may follow. */
const JSON_ROWS = /\.(?:jsonl?|ndjson)(?:\.gz)?$/i;
const CSV_ROWS = /\.[ct]sv(?:\.gz)?$/i;
const PARQUET = /\.parquet$/i;

/** Files that hold no text, and would be a strange one if they were read as such. */
const NO_TEXT =
  /\.(?:arrow|feather|orc|avro|xlsx?|docx?|odt|pdf|epub|zip|tar|tgz|7z|zst|xz|bz2|npy|npz|pt|pkl|safetensors|gguf)(?:\.gz)?$/i;

/**
 * The rows of a file.
 *
 * @throws {HubError} it cannot be had.
 */
export async function* readRows(
  file: RowFile,
  options: RowsOptions,
): AsyncGenerator<Row, void, undefined> {
  const { path } = file;
  if (PARQUET.test(path)) yield* parquetRows(file, options);
  else if (JSON_ROWS.test(path)) yield* jsonRows(file, options);
  else if (CSV_ROWS.test(path)) yield* csvRows(file, options);
  else if (NO_TEXT.test(path)) {
    options.fail(`${JSON.stringify(path)} is no parquet, JSON, CSV or text file; convert it first`);
  } else yield { content: await wholeText(file, options), where: JSON.stringify(path) };
}

async function* parquetRows(
  file: RowFile,
  options: RowsOptions,
): AsyncGenerator<Row, void, undefined> {
  const [{ parquetMetadataAsync, parquetReadObjects, parquetSchema }, { compressors }] =
    await Promise.all([import("hyparquet"), import("hyparquet-compressors")]);
  const { column: wanted, fail } = options;
  const buffer = await openBuffer(file);
  const parquet = async <T>(read: () => Promise<T>): Promise<T> => {
    try {
      return await read();
    } catch (cause) {
      if (cause instanceof HubError || cause instanceof SpaceError) throw cause;
      // The library knows no error classes of its own, so whatever else it raises is about this
      // file.
      return fail(
        `${JSON.stringify(file.path)} is no parquet file that can be read (${
          cause instanceof Error ? cause.message : String(cause)
        })`,
        cause,
      );
    }
  };
  const metadata = await parquet(() => parquetMetadataAsync(buffer));
  const columns = parquetSchema(metadata).children.map(({ element }) => element.name);
  const column = columnsOf(wanted).find((name) => columns.includes(name));
  if (column === undefined) return lacks(columns, file, options);
  let rowStart = 0;
  for (const { num_rows } of metadata.row_groups) {
    const rowEnd = rowStart + Number(num_rows);
    const rows = await parquet(() =>
      parquetReadObjects({
        file: buffer,
        metadata,
        columns: [column],
        rowStart,
        rowEnd,
        compressors,
      })
    );
    for (const [i, row] of rows.entries()) {
      const where = `row ${rowStart + i} of ${JSON.stringify(file.path)}`;
      const content = contentOf(plain(row[column]), { where, fail });
      yield content === undefined
        ? fail(`${where} has no text in "${column}"`)
        : { content, where };
    }
    rowStart = rowEnd;
  }
}

/** A file for the parquet reader: in memory and checked when it is small, else by range. */
async function openBuffer(file: RowFile): Promise<AsyncBuffer> {
  const { size } = file;
  if (size <= WHOLE) {
    const { buffer } = await file.readWhole();
    return { byteLength: size, slice: (begin, end) => buffer.slice(begin, end) };
  }
  return {
    byteLength: size,
    slice: async (begin, end = size) => (await file.read(begin, end)).buffer,
  };
}

/** Give up on a table that has only these columns. */
function lacks(
  columns: readonly string[],
  { path }: RowFile,
  { column, advice, fail }: RowsOptions,
): never {
  const names = columns.map((name) => JSON.stringify(name)).join(", ");
  return fail(`${JSON.stringify(path)} has no column "${column}", only ${names}; ${advice}`);
}

/** A list of rows, or a row in every line: which of them, the first character tells. */
async function* jsonRows(
  file: RowFile,
  options: RowsOptions,
): AsyncGenerator<Row, void, undefined> {
  let number = 0;
  let first = true;
  for await (const line of lines(decoded(file, options), options)) {
    number++;
    if (line.trim() === "") continue;
    if (first && line.trimStart().startsWith("[")) return yield* listedRows(file, options);
    first = false;
    const place = { ...options, where: `line ${number}` };
    yield rowFrom(parseJson(line, place), place);
  }
}

/** The rows of one JSON array. */
async function* listedRows(
  file: RowFile,
  options: RowsOptions,
): AsyncGenerator<Row, void, undefined> {
  const { fail } = options;
  const rows = parseJson(await wholeText(file, options), { where: "it", fail });
  if (!Array.isArray(rows)) return fail("it holds no list of rows");
  for (const [i, row] of rows.entries()) yield rowFrom(row, { ...options, where: `row ${i + 1}` });
}

/**
 * The rows of a table of comma-separated values (RFC 4180), or of values separated by tabs, below a
 * line with the names of its columns.
 */
async function* csvRows(
  file: RowFile,
  options: RowsOptions,
): AsyncGenerator<Row, void, undefined> {
  const { CsvError, parse: parseCsv } = await import("csv-parse");
  const { fail } = options;
  let checked = false;
  const records = Readable.from(decoded(file, options)).pipe(parseCsv({
    bom: true,
    columns: true,
    delimiter: /\.tsv(?:\.gz)?$/i.test(file.path) ? "\t" : ",",
    max_record_size: LONGEST_LINE,
    skip_empty_lines: true,
  }));
  let number = 0;
  try {
    for await (const record of records as AsyncIterable<Record<string, string>>) {
      number++;
      const columns = Object.keys(record);
      if (!checked && !columnsOf(options.column).some((name) => columns.includes(name))) {
        lacks(columns, file, options);
      }
      checked = true;
      yield rowFrom(record, { ...options, where: `row ${number}` });
    }
  } catch (cause) {
    if (!(cause instanceof CsvError)) throw cause;
    fail(`it is no table of comma-separated values (${cause.message})`, cause);
  }
}

function parseJson(text: string, { where, fail }: { where: string; fail: Fail }): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    return fail(`${where} is not JSON`, cause);
  }
}

/** The text or the chat of a row; `where` it is: `line 3`. */
function rowFrom(
  row: unknown,
  { column, fail, where }: RowsOptions & { readonly where: string },
): Row {
  const fields = isObject(row) ? row : {};
  for (const name of columnsOf(column)) {
    const content = contentOf(fields[name], { where, fail });
    if (content !== undefined) return { content, where };
  }
  return fail(`${where} has ${columnsOf(column).map((name) => `no "${name}"`).join(", ")}`);
}

/** The text or the chat that a field holds, if it holds one. */
function contentOf(
  value: unknown,
  options: { where: string; fail: Fail },
): Row["content"] | undefined {
  if (Array.isArray(value)) return readMessages(value, options);
  return typeof value === "string" ? value : undefined;
}

/**
 * A value of a parquet file as JSON has it: whole numbers of 64 bits become numbers, and what is
 * not there null.
 */
function plain(value: unknown): unknown {
  if (value === undefined) return null;
  if (typeof value === "bigint") return Number(value);
  if (Array.isArray(value)) return value.map(plain);
  if (!isObject(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, plain(inner)]));
}

/** The text of a file as it streams. */
async function* decoded(
  file: RowFile,
  { fail }: Pick<RowsOptions, "fail">,
): AsyncGenerator<string, void, undefined> {
  const bytes = ReadableStream.from(file.stream());
  const packed = /\.gz$/i.test(file.path);
  const stream = packed ? bytes.pipeThrough(new DecompressionStream("gzip")) : bytes;
  const decoder = new TextDecoder("utf-8", { fatal: true });
  try {
    for await (const chunk of stream) yield decoder.decode(chunk, { stream: true });
    yield decoder.decode();
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause;
    const damaged = packed ? "damaged, or " : "";
    fail(`${JSON.stringify(file.path)} is ${damaged}not UTF-8 text`, cause);
  }
}

/** All of a file's text. */
async function wholeText(file: RowFile, options: Pick<RowsOptions, "fail">): Promise<string> {
  const parts: string[] = [];
  let length = 0;
  for await (const part of decoded(file, options)) {
    length += part.length;
    if (length > LARGEST_TEXT) {
      options.fail(`it has more than ${LARGEST_TEXT / 2 ** 20} million characters; cut it`);
    }
    parts.push(part);
  }
  return parts.join("");
}

async function* lines(
  parts: AsyncIterable<string>,
  { fail }: RowsOptions,
): AsyncGenerator<string, void, undefined> {
  let rest = "";
  for await (const part of parts) {
    const pieces = (rest + part).split("\n");
    rest = pieces.pop()!;
    if (rest.length > LONGEST_LINE) fail(`a line has more than ${LONGEST_LINE} characters`);
    yield* pieces;
  }
  if (rest !== "") yield rest;
}
