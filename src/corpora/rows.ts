/** The rows of a file, texts or chats, one after another: parquet by range, JSON lines as they stream, packed with gzip or not. */
import {
  type AsyncBuffer,
  parquetMetadataAsync,
  parquetReadObjects,
  parquetSchema,
} from "hyparquet";
import { compressors } from "hyparquet-compressors";
import { HubError } from "../errors.ts";
import type { HubClient, HubFile } from "../hub/client.ts";
import { isObject } from "../json.ts";
import { type Message, readMessages } from "./messages.ts";

/** Parquet files up to this size are read whole, so that their hash can be checked. */
const WHOLE = 32 * 2 ** 20;
/** Bytes of a line: no text of a corpus is longer. */
const LONGEST_LINE = 64 * 2 ** 20;

/** Gives up: `why` continues a sentence. */
export type Fail = (why: string, cause?: unknown) => never;

/** One row of a corpus. */
export interface Row {
  readonly content: string | readonly Message[];
  /** Where it is, for messages: `line 3`. */
  readonly where: string;
}

/** Where rows are read from. */
export interface RowsOptions {
  readonly client: HubClient;
  readonly column: string;
  readonly fail: Fail;
}

/** The columns that may hold a row's text or chat, the first that is there. */
function columnsOf(column: string): readonly string[] {
  return column === "text" ? ["text", "messages", "conversations"] : [column];
}

/**
 * The rows of a file.
 *
 * @throws {HubError} it cannot be had.
 */
export async function* readRows(
  file: HubFile,
  options: RowsOptions,
): AsyncGenerator<Row, void, undefined> {
  const { path } = file;
  if (path.endsWith(".parquet")) yield* parquetRows(file, options);
  else if (/\.jsonl?(?:\.gz)?$/.test(path)) yield* jsonRows(file, options);
  else if (/\.txt(?:\.gz)?$/.test(path)) {
    let text = "";
    for await (const part of decoded(file, options)) text += part;
    yield { content: text, where: JSON.stringify(path) };
  } else {
    options.fail(`${JSON.stringify(path)} is no parquet, JSON-lines or text file`);
  }
}

async function* parquetRows(
  file: HubFile,
  { client, column: wanted, fail }: RowsOptions,
): AsyncGenerator<Row, void, undefined> {
  const buffer = await openBuffer(file, client);
  const parquet = async <T>(read: () => Promise<T>): Promise<T> => {
    try {
      return await read();
    } catch (cause) {
      if (cause instanceof HubError) throw cause;
      // The library knows no error classes of its own, so whatever else it raises is about this file.
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
  if (column === undefined) {
    return fail(
      `${JSON.stringify(file.path)} has no column "${wanted}"; name one after a third colon: ${
        columns.map((name) => JSON.stringify(name)).join(", ")
      }`,
    );
  }
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
async function openBuffer(file: HubFile, client: HubClient): Promise<AsyncBuffer> {
  const { size } = file;
  if (size <= WHOLE) {
    const { buffer } = await client.readWhole(file);
    return { byteLength: size, slice: (begin, end) => buffer.slice(begin, end) };
  }
  return {
    byteLength: size,
    slice: async (begin, end = size) => (await client.read(file, { begin, end })).buffer,
  };
}

async function* jsonRows(
  file: HubFile,
  options: RowsOptions,
): AsyncGenerator<Row, void, undefined> {
  let number = 0;
  for await (const line of lines(decoded(file, options), options)) {
    number++;
    if (line.trim() !== "") yield readRow(line, { ...options, where: `line ${number}` });
  }
}

/**
 * The row of one JSON line.
 *
 * @param options.where the line, for messages: `line 3`
 */
export function readRow(
  line: string,
  { column, fail, where }: Pick<RowsOptions, "column" | "fail"> & { readonly where: string },
): Row {
  let row: unknown;
  try {
    row = JSON.parse(line);
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    return fail(`${where} is not JSON`, cause);
  }
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

/** A value of a parquet file as JSON has it: whole numbers of 64 bits become numbers, and what is not there null. */
function plain(value: unknown): unknown {
  if (value === undefined) return null;
  if (typeof value === "bigint") return Number(value);
  if (Array.isArray(value)) return value.map(plain);
  if (!isObject(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, plain(inner)]));
}

/** The text of a file as it streams. */
async function* decoded(
  file: HubFile,
  { client, fail }: RowsOptions,
): AsyncGenerator<string, void, undefined> {
  const bytes = client.stream(file, { begin: 0, end: file.size });
  const stream = file.path.endsWith(".gz")
    ? ReadableStream.from(bytes).pipeThrough(new DecompressionStream("gzip"))
    : ReadableStream.from(bytes);
  const decoder = new TextDecoder("utf-8", { fatal: true });
  try {
    for await (const chunk of stream) yield decoder.decode(chunk, { stream: true });
    yield decoder.decode();
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause;
    fail(`${JSON.stringify(file.path)} is damaged, or no UTF-8 text`, cause);
  }
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
