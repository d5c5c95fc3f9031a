/**
 * A checkpoint on this machine: one safetensors file, or a folder of them with or without an index.
 * Opening reads headers, the index and config.json; tensors are read when asked for. Refused:
 * folders with weights of other formats only, indexes that do not fit their shards, shards that are
 * missing, tensors that are in two files where no index says which is meant.
 */
import { sha256 } from "../hash.ts";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import type { PlacedTensor } from "../container.ts";
import { START_BYTES } from "../containers/impostors.ts";
import { decodeText, JsonReader } from "../containers/json_reader.ts";
import { headerLength, parseHeader } from "../containers/safetensors.ts";
import { CheckpointError, quote, RequestError } from "../errors.ts";
import { type Disk, disk as machine, type DiskReader, type ReadableDisk } from "../io/disk.ts";
import { size } from "../size.ts";
import type { Rows, TensorSource } from "../source.ts";
import { BITS, elementCount } from "../tensor.ts";
import { checkLink, findCompanions } from "./companions.ts";
import { readingDoubles } from "./doubles.ts";
import { chooseWeights } from "./weight_files.ts";

/** Bytes config.json may have. */
const CONFIG_LIMIT = 10_000_000;

/**
 * Weight files of which headers are read at once: for a disk no gain, for a network the waits
 * overlap.
 */
const OPEN_AT_ONCE = 4;

/** Bytes of the largest model card that is looked at. */
const CARD_LIMIT = 1e6;

/** How a checkpoint is read. */
export interface ReadOptions {
  /** Largest header accepted, in bytes: 25 MB unless given, at most 100 MB. */
  readonly maxHeaderBytes?: number;
  /** Leave tensors of float64 as they are; else they are read as float32. */
  readonly asStored?: boolean;
}

/** How to open a checkpoint. */
export interface OpenOptions extends ReadOptions {
  /** The file system to use; the machine's own unless a test gives another. */
  readonly disk?: Disk;
}

/** A checkpoint of which it is known where the bytes of its tensors are. */
export interface PlacedSource extends TensorSource {
  /**
   * The bytes of a file that hold a tensor, or rows of it.
   *
   * @throws {RangeError} no such tensor, or rows outside it.
   */
  locate(name: string, rows?: Rows): { readonly file: string; begin: number; end: number };
}

/** A weight file that is open, and what its header says. */
interface Shard {
  readonly name: string;
  readonly reader: DiskReader;
  readonly tensors: readonly PlacedTensor[];
  /** SHA-256 of the header. */
  readonly digest: string;
}

/**
 * Open a checkpoint: a path or a `file:` URL of a `.safetensors` file or of a folder.
 *
 * A folder's `model.safetensors` is taken alone if it is there, as transformers does; else the
 * files of its index; else every `*.safetensors` in it.
 *
 * @throws {RequestError} nothing is there, or the URL is not a `file:` URL.
 * @throws {CheckpointError} what is there breaks a rule; the message says which, where, and what to
 * do.
 */
export async function openCheckpoint(
  path: string | URL,
  { disk = machine, ...options }: OpenOptions = {},
): Promise<TensorSource> {
  const asAsked = options.asStored ? <S>(source: S) => source : readingDoubles;
  const place = toPath(path);
  const label = String(path);
  const found = await disk.stat(place);
  if (!found) {
    throw new RequestError(
      `Cannot open the checkpoint ${quote(label)}: ${
        /^\w+:\/\//.test(label)
          ? "it is no address of a model on the Hub. Give org/name, or a path of this machine."
          : "there is no such file or folder. Check the path."
      }`,
    );
  }
  if (found.kind === "file") {
    return asAsked(
      await openFiles(disk, { label, folder: place, file: place, weights: undefined, options }),
    );
  }
  if (found.kind !== "folder") {
    throw new CheckpointError(
      `Cannot open the checkpoint ${quote(label)}: it is neither a file nor a folder.`,
      { file: label },
    );
  }
  return asAsked(await openFolder(disk, place.replace(/(?<=.)[/\\]+$/, ""), { label, ...options }));
}

/**
 * Open a folder as a checkpoint. See `openCheckpoint`.
 *
 * @throws {CheckpointError} what is there breaks a rule; the message says which, where, and what to
 * do.
 */
export async function openFolder(
  disk: ReadableDisk,
  folder: string,
  { label, ...options }: ReadOptions & { readonly label: string },
): Promise<PlacedSource> {
  const weights = await chooseWeights(disk, folder, label);
  return await openFiles(disk, { label, folder, file: undefined, weights, options });
}

function toPath(path: string | URL): string {
  if (typeof path === "string") return path;
  if (path.protocol === "file:") return fileURLToPath(path);
  throw new RequestError(
    `Cannot open the checkpoint ${
      quote(path.href)
    }: only files and folders of this machine can be ` +
      `opened. Download it first.`,
  );
}

interface Chosen {
  readonly label: string;
  readonly folder: string;
  /** The path of the only file, when the checkpoint is no folder. */
  readonly file: string | undefined;
  readonly weights: Awaited<ReturnType<typeof chooseWeights>> | undefined;
  readonly options: ReadOptions;
}

async function openFiles(
  disk: ReadableDisk,
  { label, folder, file, weights, options }: Chosen,
): Promise<PlacedSource> {
  await using opened = new AsyncDisposableStack();
  const shards = await inParallel(weights?.names ?? [basename(file!)], async (name) => {
    const reader = opened.use(await disk.open(file ?? `${folder}/${name}`));
    return await readShard(reader, name, options);
  });
  const tensors = new Map<string, PlacedTensor>();
  const fileOf = new Map<string, string>();
  for (const shard of shards) {
    for (const tensor of shard.tensors) {
      // A tensor may be in several files; the index says which is meant, as transformers has it.
      if ((weights?.index?.get(tensor.name) ?? shard.name) !== shard.name) continue;
      const other = fileOf.get(tensor.name);
      if (other !== undefined) {
        throw new CheckpointError(
          `Cannot read ${quote(shard.name)}: tensor ${quote(tensor.name)} is also in ${
            quote(other)
          }. ` +
            `Give the one file that is meant, or move the others out of the folder.`,
          { file: shard.name, tensor: tensor.name, offset: tensor.begin },
        );
      }
      tensors.set(tensor.name, tensor);
      fileOf.set(tensor.name, shard.name);
    }
  }
  for (const [tensor, shard] of weights?.index ?? []) {
    if (fileOf.get(tensor) === shard) continue;
    throw new CheckpointError(
      `Cannot read ${quote(shard)}: the index says it holds tensor ${
        quote(tensor)
      }, but it does not. ` +
        `Index and shards are of different models, or damaged: download both again.`,
      { file: shard, tensor },
    );
  }
  const configText = file === undefined
    ? await readSettings(disk, folder, "config.json")
    : undefined;
  const config = configText === undefined ? {} : parseConfig(configText);
  const files = file === undefined
    ? await findCompanions(disk, folder, await disk.list(folder))
    : new Map<string, never>();
  const id = await sha256(JSON.stringify([
    shards.map(({ name, reader, digest }) => [name, reader.size, digest]),
    configText === undefined ? null : await sha256(configText),
  ]));

  const changed = shards.flatMap(({ name, reader: { modified } }) =>
    modified === undefined ? [] : [[name, modified] as const]
  );
  const readers = new Map(shards.map(({ name, reader }) => [name, reader]));
  const open = opened.move();
  const locate: PlacedSource["locate"] = (name, rows) => {
    const tensor = tensors.get(name);
    if (!tensor) {
      throw new RangeError(`Cannot read ${quote(name)}: the checkpoint has no such tensor.`);
    }
    const { begin, end } = rowSpan(tensor, rows);
    return { file: fileOf.get(name)!, begin, end };
  };
  return {
    label,
    id,
    ...(changed.length > 0 ? { changed: Object.fromEntries(changed) } : {}),
    tensors,
    fileOf,
    files,
    config,
    configText,
    locate,
    readSettings: (path) =>
      file === undefined ? readSettings(disk, folder, path) : Promise.resolve(undefined),
    async modelCard() {
      const path = `${folder}/README.md`;
      const found = file === undefined ? await disk.stat(path) : undefined;
      if (found?.kind !== "file" || found.size > CARD_LIMIT) return undefined;
      await using reader = await disk.open(path);
      return new TextDecoder().decode(await reader.read(0, found.size));
    },
    read(name, rows, into) {
      const { file, begin, end } = locate(name, rows);
      return readers.get(file)!.read(begin, end, into);
    },
    async readFile(path) {
      const info = files.get(path);
      if (!info) throw new RangeError(`Cannot read ${quote(path)}: it is not among the files.`);
      await using reader = await disk.open(`${folder}/${path}`);
      return await reader.read(0, reader.size);
    },
    [Symbol.asyncDispose]: () => open.disposeAsync(),
  };
}

/**
 * Do the same with several names at a time. What fails is told once none is at work any more, the
 * first in the order of names.
 */
async function inParallel<T>(
  names: readonly string[],
  act: (name: string) => Promise<T>,
): Promise<T[]> {
  const results: Promise<T>[] = [];
  const settled: Promise<unknown>[] = [];
  let failed = false;
  for (const [i, name] of names.entries()) {
    if (i >= OPEN_AT_ONCE) await settled[i - OPEN_AT_ONCE];
    if (failed) break;
    const result = act(name);
    results.push(result);
    settled.push(result.then(() => {}, () => {
      failed = true;
    }));
  }
  await Promise.all(settled);
  return await Promise.all(results);
}

async function readShard(
  reader: DiskReader,
  file: string,
  options: ReadOptions,
): Promise<Shard> {
  const about = { file, fileSize: reader.size, ...options };
  const start = await reader.read(0, Math.min(START_BYTES, reader.size));
  const bytes = await reader.read(0, headerLength(start, about));
  const { tensors } = parseHeader(bytes, about);
  return { name: file, reader, tensors, digest: await sha256(bytes) };
}

/** The bytes of a file that hold a tensor's rows. */
function rowSpan(
  tensor: PlacedTensor,
  rows: Rows | undefined,
): { readonly begin: number; readonly end: number } {
  if (!rows) return tensor;
  const { name, dtype, shape, begin } = tensor;
  const [count = 1, ...rest] = shape;
  const { from, to } = rows;
  if (
    !Number.isInteger(from) || !Number.isInteger(to) || from < 0 || from > to || to > count
  ) {
    throw new RangeError(
      `Cannot read rows ${from} to ${to} of ${quote(name)}: it has ${count} rows.`,
    );
  }
  const bits = elementCount(rest) * BITS[dtype];
  if ((from * bits) % 8 !== 0 || (to * bits) % 8 !== 0) {
    throw new RangeError(
      `Cannot read rows ${from} to ${to} of ${quote(name)}: a row has ${bits} bits, and the rows ` +
        `asked for do not begin and end at whole bytes.`,
    );
  }
  return { begin: begin + from * bits / 8, end: begin + to * bits / 8 };
}

/** The text of a JSON file beside the weights, or undefined when there is none. */
async function readSettings(
  disk: ReadableDisk,
  folder: string,
  file: string,
): Promise<string | undefined> {
  const found = await disk.stat(`${folder}/${file}`);
  if (!found) return undefined;
  if (found.kind !== "file" || found.size > CONFIG_LIMIT) {
    throw new CheckpointError(
      found.kind === "file"
        ? `Cannot read "${file}": it has ${size(found.size)}, more than the ${
          size(CONFIG_LIMIT)
        } that are accepted.`
        : `Cannot read "${file}": it is not a file.`,
      { file },
    );
  }
  await checkLink(disk, folder, file);
  await using reader = await disk.open(`${folder}/${file}`);
  const bytes = await reader.read(0, reader.size);
  return decodeText(bytes, { file, what: "its text" });
}

/**
 * config.json as an object; its keys are checked by those who use them. Loaders let a key come
 * twice, the last counts.
 */
function parseConfig(text: string): Record<string, unknown> {
  const json = new JsonReader(new TextEncoder().encode(text), {
    file: "config.json",
    what: "it",
    duplicates: true,
  });
  for (const _ of json.keys("the configuration")) json.skip();
  json.end();
  return JSON.parse(text) as Record<string, unknown>;
}
