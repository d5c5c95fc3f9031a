/**
 * The safetensors container: `u64 N (little-endian) | N bytes of JSON | data`. A reader stricter
 * than the reference (Rust `safetensors` 0.8.0) and a writer that makes the same bytes as it. Pure:
 * bytes in, facts out.
 *
 * The reader refuses, beyond the reference: duplicate keys at any level, white space before the
 * `{`, tensor names that are empty, hold control characters or are longer than 1024, ranks over 16,
 * more than 500,000 tensors, sizes over 2^53 − 1, headers over 25 MB unless asked. Keys it does not
 * know in a tensor's entry are read over, as the reference does.
 */
import type { Header, Layout, PlacedTensor } from "../container.ts";
import { CheckpointError, quote, UnsupportedError } from "../errors.ts";
import { size } from "../size.ts";
import { BITS, byteLength, type DType, type TensorInfo } from "../tensor.ts";
import { impostor } from "./impostors.ts";
import { JsonReader } from "./json_reader.ts";

/** Bytes a header may have: what the Hugging Face Hub and vLLM read. */
export const HEADER_LIMIT = 25_000_000;
/** Bytes a header may have at most, when a caller raises the limit; the reference's own limit. */
export const HEADER_LIMIT_MAX = 100_000_000;

const MAX_TENSORS = 500_000;
const MAX_NAME = 1024;
const MAX_RANK = 16;
const METADATA = "__metadata__";
const BRACE = 0x7b;
const DTYPES: readonly DType[] = Object.keys(BITS) as DType[];
const BY_NAME: ReadonlyMap<string, DType> = new Map(
  DTYPES.map((dtype) => [dtype.toUpperCase(), dtype]),
);
/** Place in the format's `Dtype` enum, which is in the order of alignment. */
const RANK: ReadonlyMap<DType, number> = new Map(DTYPES.map((dtype, i) => [dtype, i]));

/** What must be known of a file to judge its header. */
export interface HeaderOptions {
  /** The file's name, for messages. */
  readonly file: string;
  /** Its size in bytes. */
  readonly fileSize: number;
  /** Largest header accepted, in bytes: `HEADER_LIMIT` unless given, at most `HEADER_LIMIT_MAX`. */
  readonly maxHeaderBytes?: number;
}

/**
 * How many bytes of a file come before its first tensor (8 + N), told by its start and checked
 * before anything is allocated.
 *
 * @param start the first `START_BYTES` bytes of the file, fewer when it is shorter
 * @throws {CheckpointError} it is no safetensors file (and what it seems to be), is cut short, or
 * its header is too long.
 */
export function headerLength(start: Uint8Array, options: HeaderOptions): number {
  const { file, fileSize, maxHeaderBytes = HEADER_LIMIT } = options;
  if (!(maxHeaderBytes >= 2 && maxHeaderBytes <= HEADER_LIMIT_MAX)) {
    throw new RangeError(
      `Cannot accept headers of ${maxHeaderBytes} bytes: the limit is ${HEADER_LIMIT_MAX}.`,
    );
  }
  const fail = (found: string): never => {
    // With a brace in its place this is a header, whatever the bytes of its length may look like.
    const what = start[8] === BRACE ? undefined : impostor(start) ?? jsonAlone(start);
    const message = what === undefined
      ? `${found} The file is cut short, damaged, or no safetensors file: download it again.`
      : `it is not a safetensors file. It is ${what}.`;
    throw new CheckpointError(`Cannot read ${quote(file)}: ${message}`, { file, offset: 0 });
  };
  if (fileSize === 0) return fail("it is empty.");
  if (fileSize < 10 || start.length < 9) {
    return fail(`it has only ${fileSize} bytes, and the shortest safetensors file has 10.`);
  }
  const view = new DataView(start.buffer, start.byteOffset, start.byteLength);
  const length = view.getBigUint64(0, true);
  if (length > BigInt(fileSize - 8)) {
    return fail(
      `it begins with a header length of ${length} bytes, but only ${fileSize - 8} follow.`,
    );
  }
  if (start[8] !== BRACE || length < 2n) {
    return fail(`its header of ${length} bytes does not begin with “{”.`);
  }
  if (length > BigInt(maxHeaderBytes)) {
    throw new CheckpointError(
      `Cannot read ${quote(file)}: its header has ${size(Number(length))}, more than the ${
        size(maxHeaderBytes)
      } that are accepted. Split the file into smaller shards.`,
      { file, offset: 0 },
    );
  }
  return 8 + Number(length);
}

/**
 * What a file of JSON text is, or undefined when it is none: a server's answer, or a header that
 * lost its length.
 */
function jsonAlone(start: Uint8Array): string | undefined {
  const text = new TextDecoder("latin1").decode(start.subarray(0, 9));
  return /^\s*[{[][\s\x20-\x7e]+$/.test(text)
    ? "JSON text without the length that a safetensors file begins with. Download the file again"
    : undefined;
}

/**
 * What a safetensors file says of itself, every rule checked.
 *
 * @param bytes the file's first bytes, at least `headerLength` of them
 * @throws {CheckpointError} the header breaks a rule of the format or one of this reader's limits.
 * @throws {RangeError} `bytes` ends before the header does.
 */
export function parseHeader(bytes: Uint8Array, options: HeaderOptions): Header {
  const headerBytes = headerLength(bytes, options);
  if (bytes.length < headerBytes) {
    throw new RangeError(
      `Cannot parse the header of ${quote(options.file)}: it ends at byte ${headerBytes}, ` +
        `got ${bytes.length} bytes.`,
    );
  }
  const json = new JsonReader(bytes.subarray(8, headerBytes), {
    file: options.file,
    what: "its header",
    offset: 8,
  });
  let metadata: Record<string, string> | undefined;
  const tensors: PlacedTensor[] = [];
  for (const name of json.keys("the header")) {
    if (name === METADATA) metadata = readMetadata(json);
    else {
      if (tensors.length === MAX_TENSORS) json.fail(`has more than ${MAX_TENSORS} tensors`);
      const reason = checkTensorName(name);
      if (reason !== true) json.fail(`names a tensor ${quote(name)}, ${reason}`);
      tensors.push(readEntry(json, name, headerBytes));
    }
  }
  json.end();
  tensors.sort((a, b) => a.begin - b.begin || a.end - b.end);
  checkSpans(tensors, headerBytes, options);
  return { tensors, metadata, headerBytes };
}

function readMetadata(json: JsonReader): Record<string, string> | undefined {
  if (json.null()) return undefined;
  const entries: [string, string][] = [];
  for (const key of json.keys(`“${METADATA}”`)) {
    entries.push([key, json.string(`the value of ${quote(key)} in “${METADATA}”`)]);
  }
  // fromEntries defines keys such as "__proto__" as plain members.
  return Object.fromEntries(entries);
}

/**
 * Why Sluice takes no tensor of this name, or `true`. The reason continues a sentence after the
 * name.
 */
function checkTensorName(name: string): true | string {
  if (name === "") return "which is empty";
  if (name.length > MAX_NAME) return `which is longer than ${MAX_NAME} characters`;
  // deno-lint-ignore no-control-regex -- the pattern is of control characters
  if (/[\u0000-\u001f\u007f-\u009f]/.test(name)) return "which holds a control character";
  if (name === "__proto__") return "which is no name for a tensor";
  return true;
}

/** One tensor's `{"dtype", "shape", "data_offsets"}`. */
function readEntry(json: JsonReader, name: string, headerBytes: number): PlacedTensor {
  json.tensor = name;
  let dtype: DType | undefined;
  let shape: number[] | undefined;
  let span: number[] | undefined;
  for (const key of json.keys("an entry")) {
    if (key === "dtype") {
      const text = json.string("dtype");
      dtype = BY_NAME.get(text) ??
        json.fail(
          `has the dtype ${quote(text)}, which is not one of ${[...BY_NAME.keys()].join(", ")},`,
        );
    } else if (key === "shape") shape = readIntegers(json, "shape", MAX_RANK);
    else if (key === "data_offsets") span = readIntegers(json, "data_offsets", 2);
    else json.skip();
  }
  const [from, to] = span ?? [];
  if (!dtype) return json.fail("has no “dtype”");
  if (!shape) return json.fail("has no “shape”");
  if (!span) return json.fail("has no “data_offsets”");
  if (from === undefined || to === undefined) {
    return json.fail(`has ${span.length} numbers in “data_offsets”, not 2,`);
  }
  // Sizes multiply past 2^53, where numbers would round.
  const bits = shape.reduce((n, size) => n * BigInt(size), BigInt(BITS[dtype]));
  if (bits % 8n !== 0n) {
    return json.fail(`gives ${dtype.toUpperCase()} elements that do not fill whole bytes`);
  }
  if (to < from || bits / 8n !== BigInt(to - from)) {
    return json.fail(
      `gives ${dtype.toUpperCase()}[${shape.join(", ")}], which takes ${bits / 8n} bytes, ` +
        `the offsets [${from}, ${to}]`,
    );
  }
  json.tensor = undefined;
  return { name, dtype, shape, begin: headerBytes + from, end: headerBytes + to };
}

function readIntegers(json: JsonReader, what: string, most: number): number[] {
  const numbers: number[] = [];
  for (const index of json.items(`“${what}”`)) {
    if (index === most) json.fail(`has more than ${most} numbers in “${what}”`);
    numbers.push(json.integer(`a number of “${what}”`));
  }
  return numbers;
}

/** Tensors fill the data without gap or overlap, to the last byte of the file. */
function checkSpans(
  tensors: readonly PlacedTensor[],
  headerBytes: number,
  { file, fileSize }: HeaderOptions,
): void {
  let end = headerBytes;
  let before: PlacedTensor | undefined;
  for (const tensor of tensors) {
    if (tensor.begin !== end) {
      const [fault, why] = tensor.begin < end
        ? ["overlap", "no byte may belong to two tensors"]
        : ["are apart", "every byte must belong to a tensor"];
      throw new CheckpointError(
        `Cannot read ${quote(file)}: ${
          before ? `tensor ${quote(before.name)}` : "the header"
        } ends at byte ${end} and tensor ` +
          `${quote(tensor.name)} begins at byte ${tensor.begin}. They ${fault}, but ${why}.`,
        { file, tensor: tensor.name, offset: tensor.begin },
      );
    }
    end = tensor.end;
    before = tensor;
  }
  if (end === fileSize) return;
  throw new CheckpointError(
    `Cannot read ${quote(file)}: its tensors end at byte ${end}, but the file has ${fileSize} ` +
      `bytes. ` +
      (end > fileSize
        ? "It is cut short: download it again."
        : "Nothing may follow the last tensor: the file was altered, download it again."),
    { file, offset: Math.min(end, fileSize) },
  );
}

/**
 * Plan a file as the reference's own writer does: tensors by descending alignment of their dtype,
 * then by the bytes of their names, so that each begins at a multiple of its element's size; the
 * header padded with spaces to a multiple of 8.
 *
 * @param metadata the `__metadata__` map; loaders want `format`
 * @throws {RangeError} two tensors share a name, a name is not allowed, or elements do not fill
 * whole bytes.
 * @throws {UnsupportedError} the header would reach `HEADER_LIMIT`.
 */
export function layoutFile(
  tensors: readonly TensorInfo[],
  metadata: Readonly<Record<string, string>> = { format: "pt" },
): Layout {
  if (tensors.length > MAX_TENSORS) {
    throw new RangeError(
      `Cannot write ${tensors.length} tensors into one file: ${MAX_TENSORS} is the most.`,
    );
  }
  const names = new Set<string>();
  for (const tensor of tensors) {
    const reason = names.has(tensor.name) || tensor.name === METADATA
      ? "which is taken"
      : tensor.name.isWellFormed()
      ? checkTensorName(tensor.name)
      : "which holds half a surrogate pair";
    if (reason !== true) {
      throw new RangeError(`Cannot write a tensor named ${quote(tensor.name)}, ${reason}.`);
    }
    const sizes = [...tensor.shape, byteLength(tensor)];
    if (tensor.shape.length > MAX_RANK || !sizes.every((n) => Number.isSafeInteger(n) && n >= 0)) {
      throw new RangeError(
        `Cannot write tensor ${quote(tensor.name)}: ${tensor.dtype}[${tensor.shape.join(", ")}] ` +
          `must have at most ${MAX_RANK} dimensions and fill whole bytes, fewer than 2^53.`,
      );
    }
    names.add(tensor.name);
  }
  const ordered = tensors.toSorted((a, b) =>
    RANK.get(b.dtype)! - RANK.get(a.dtype)! || compareUtf8(a.name, b.name)
  );
  const members = [`${JSON.stringify(METADATA)}:${JSON.stringify(metadata)}`];
  let length = 0;
  const spans = ordered.map((tensor) => {
    const begin = length;
    length += byteLength(tensor);
    members.push(
      `${JSON.stringify(tensor.name)}:{"dtype":"${tensor.dtype.toUpperCase()}",` +
        `"shape":[${tensor.shape.join(",")}],"data_offsets":[${begin},${length}]}`,
    );
    return { begin, end: length };
  });
  const json = new TextEncoder().encode(`{${members.join(",")}}`);
  const head = new Uint8Array(8 + Math.ceil(json.length / 8) * 8).fill(0x20);
  if (head.length - 8 >= HEADER_LIMIT) {
    throw new UnsupportedError(
      `Cannot write ${tensors.length} tensors into one file: their header would have ` +
        `${size(head.length - 8)}, and loaders accept less than ${size(HEADER_LIMIT)}. ` +
        `Ask for smaller shards.`,
      { what: "header", reason: `it would have ${size(head.length - 8)}` },
    );
  }
  new DataView(head.buffer).setBigUint64(0, BigInt(head.length - 8), true);
  head.set(json, 8);
  return {
    head,
    size: head.length + length,
    tensors: ordered.map(({ name, dtype, shape }, i) => ({
      name,
      dtype,
      shape,
      begin: head.length + spans[i]!.begin,
      end: head.length + spans[i]!.end,
    })),
  };
}

/**
 * The order of two well-formed strings' UTF-8 bytes: that of code points, where JavaScript compares
 * UTF-16 units.
 */
function compareUtf8(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const x = a.charCodeAt(i), y = b.charCodeAt(i);
    if (x !== y) return aboveSurrogates(x) - aboveSurrogates(y);
  }
  return a.length - b.length;
}

/** A UTF-16 unit's place when surrogates, which stand for the highest code points, come last. */
function aboveSurrogates(unit: number): number {
  return unit >= 0xe000 ? unit - 0x800 : unit >= 0xd800 ? unit + 0x2000 : unit;
}
