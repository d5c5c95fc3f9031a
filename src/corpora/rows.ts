/** The texts of a file of rows, one after another: parquet by range, JSON lines as they stream, packed with gzip or not. */
import {
  type AsyncBuffer,
  parquetMetadataAsync,
  parquetReadObjects,
  parquetSchema,
} from "hyparquet";
import { compressors } from "hyparquet-compressors";
import { HubError } from "../errors.ts";
import type { HubClient, HubFile } from "../hub/client.ts";

/** Parquet files up to this size are read whole, so that their hash can be checked. */
const WHOLE = 32 * 2 ** 20;
/** Bytes of a line: no text of a corpus is longer. */
const LONGEST_LINE = 64 * 2 ** 20;

/** Gives up: `why` continues a sentence. */
export type Fail = (why: string, cause?: unknown) => never;

/** Where rows are read from. */
export interface RowsOptions {
  readonly client: HubClient;
  readonly column: string;
  readonly fail: Fail;
}

/**
 * The texts of a file's rows.
 *
 * @throws {HubError} it cannot be had.
 */
export async function* readRows(
  file: HubFile,
  options: RowsOptions,
): AsyncGenerator<string, void, undefined> {
  const { path } = file;
  if (path.endsWith(".parquet")) yield* parquetRows(file, options);
  else if (/\.jsonl?(?:\.gz)?$/.test(path)) yield* jsonRows(file, options);
  else if (/\.txt(?:\.gz)?$/.test(path)) {
    let text = "";
    for await (const part of decoded(file, options)) text += part;
    yield text;
  } else {
    options.fail(`${JSON.stringify(path)} is no parquet, JSON-lines or text file`);
  }
}

async function* parquetRows(
  file: HubFile,
  { client, column, fail }: RowsOptions,
): AsyncGenerator<string, void, undefined> {
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
  if (!columns.includes(column)) {
    fail(
      `${JSON.stringify(file.path)} has no column "${column}"; name one after a third colon: ${
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
      const text: unknown = row[column];
      if (typeof text !== "string") {
        fail(`row ${rowStart + i} of ${JSON.stringify(file.path)} has no text in "${column}"`);
      } else {
        yield text;
      }
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
): AsyncGenerator<string, void, undefined> {
  let number = 0;
  for await (const line of lines(decoded(file, options), options)) {
    number++;
    if (line.trim() !== "") yield rowText(line, { ...options, where: `line ${number}` });
  }
}

/**
 * The text of one JSON line.
 *
 * @param options.where the line, for messages: `line 3`
 */
export function rowText(
  line: string,
  { column, fail, where }: Pick<RowsOptions, "column" | "fail"> & { readonly where: string },
): string {
  let row: unknown;
  try {
    row = JSON.parse(line);
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    return fail(`${where} is not JSON`, cause);
  }
  const fields = typeof row === "object" && row !== null && !Array.isArray(row)
    ? row as Record<string, unknown>
    : {};
  const text = fields[column];
  if (typeof text === "string") return text;
  return fail(
    "messages" in fields
      ? `${where} has "messages", which need a chat template; give a file with a "${column}" in ` +
        `every line`
      : `${where} has no "${column}"`,
  );
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
