/**
 * A checkpoint and an output in memory, for tests of what stands between them; and how much memory a
 * test takes.
 */
import { layoutFile, parseHeader } from "../src/containers/safetensors.ts";
import type { Header } from "../src/container.ts";
import type { Sink } from "../src/sink.ts";
import type { TensorSource } from "../src/source.ts";
import { byteLength, type TensorInfo } from "../src/tensor.ts";

/** A tensor with its bytes. */
export interface Filled extends TensorInfo {
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** A checkpoint of these tensors, as one file would hold them. */
export function memorySource(
  filled: readonly Filled[],
  { config = {}, files = {} }: {
    config?: Readonly<Record<string, unknown>>;
    files?: Readonly<Record<string, Uint8Array<ArrayBuffer>>>;
  } = {},
): TensorSource {
  const bytesOf = new Map(filled.map(({ name, bytes }) => [name, bytes]));
  const ordered = layoutFile(filled).tensors;
  const tensors = new Map(
    ordered.map(({ name, dtype, shape }) => [name, { name, dtype, shape }]),
  );
  return {
    label: "memory",
    id: "memory",
    tensors,
    fileOf: new Map(ordered.map(({ name }) => [name, "model.safetensors"])),
    files: new Map(
      Object.entries(files).map(([path, { length }]) => [path, { path, size: length }]),
    ),
    config,
    configText: JSON.stringify(config),
    read(name, rows) {
      const tensor = tensors.get(name), bytes = bytesOf.get(name);
      if (!tensor || !bytes) throw new RangeError(`No tensor "${name}".`);
      const rowBytes = byteLength(tensor) / (tensor.shape[0] ?? 1);
      return Promise.resolve(
        rows ? bytes.slice(rows.from * rowBytes, rows.to * rowBytes) : bytes.slice(),
      );
    },
    readFile: (path) => Promise.resolve(files[path]!.slice()),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

/** Files by path, filled once the sink was committed. */
export function memorySink(): Sink & { readonly files: Map<string, Uint8Array<ArrayBuffer>> } {
  const files = new Map<string, Uint8Array<ArrayBuffer>>();
  const staged = new Map<string, Uint8Array<ArrayBuffer>>();
  return {
    label: "memory",
    files,
    create(path, size) {
      const bytes = new Uint8Array(size);
      return Promise.resolve({
        write: (offset, piece) => Promise.resolve(bytes.set(piece, offset)),
        sync: () => Promise.resolve(),
        commit: () => Promise.resolve(void staged.set(path, bytes)),
        [Symbol.asyncDispose]: () => Promise.resolve(),
      });
    },
    commit() {
      for (const [path, bytes] of staged) files.set(path, bytes);
      return Promise.resolve();
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

/** An output that forgets what it is given. */
export function nowhereSink(): Sink {
  return {
    label: "nowhere",
    create: () =>
      Promise.resolve({
        write: () => Promise.resolve(),
        sync: () => Promise.resolve(),
        commit: () => Promise.resolve(),
        [Symbol.asyncDispose]: () => Promise.resolve(),
      }),
    commit: () => Promise.resolve(),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

/** The bytes of a safetensors file with these tensors. */
export function safetensorsFile(
  filled: readonly Filled[],
  metadata: Readonly<Record<string, string>> = { format: "pt" },
): Uint8Array<ArrayBuffer> {
  const { head, tensors, size } = layoutFile(filled, metadata);
  const file = new Uint8Array(size);
  file.set(head);
  for (const { name, begin } of tensors) {
    file.set(filled.find((tensor) => tensor.name === name)!.bytes, begin);
  }
  return file;
}

/** A tensor whose bytes count up from `seed`. */
export function counting(
  name: string,
  dtype: TensorInfo["dtype"],
  shape: readonly number[],
  seed = 0,
): Filled {
  const bytes = Uint8Array.from({ length: byteLength({ dtype, shape }) }, (_, i) => seed + i);
  return { name, dtype, shape, bytes };
}

/** The header of a file in memory. */
export function headerOf(file: Uint8Array<ArrayBuffer>): Header {
  return parseHeader(file, { file: "memory", fileSize: file.length });
}

/**
 * Bytes that the JavaScript of this test file holds, buffers too. What the whole process has
 * (`rss`) is also that of the files that run beside it.
 */
export function heldBytes(): number {
  const { heapUsed, external } = Deno.memoryUsage();
  return heapUsed + external;
}
