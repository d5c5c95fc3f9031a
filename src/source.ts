/**
 * A checkpoint that can be read a piece at a time. Implementations: sources/checkpoint.ts (a file
 * or a folder), sources/hub.ts.
 */
import type { TensorInfo } from "./tensor.ts";

/** A file beside the weights: a tokenizer, a template, a licence. */
export interface FileInfo {
  /** Path relative to the checkpoint, with `/`. */
  readonly path: string;
  readonly size: number;
}

/** Rows `[from, to)` of a tensor's first dimension. */
export interface Rows {
  readonly from: number;
  readonly to: number;
}

/** One call of `read` that is to come. */
export interface Reading {
  readonly name: string;
  readonly rows?: Rows | undefined;
}

/** Bytes of a weight file as they were given out, which nobody has compared with its hash yet. */
export interface Unchecked {
  readonly file: string;
  readonly begin: number;
  readonly end: number;
  /** Of these bytes, in hex. */
  readonly sha256: string;
}

/** A checkpoint: everything but the tensors' bytes is known when it is open. */
export interface TensorSource extends AsyncDisposable {
  /** Where it is, as a person wrote it. */
  readonly label: string;
  /** Pinned: a key of the content (`repo@commit`, or a hash of a folder's headers and sizes). */
  readonly id: string;
  /**
   * When each weight file was last changed, in milliseconds since 1970: `id` is of headers, and not
   * of what they are followed by. Absent where the bytes are pinned, or nobody tells.
   */
  readonly changed?: Readonly<Record<string, number>>;
  /** From headers alone, in the order of file name, then offset. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** Which weight file holds a tensor. */
  readonly fileOf: ReadonlyMap<string, string>;
  /** Every other file worth carrying along. Weight files and their indexes are not here. */
  readonly files: ReadonlyMap<string, FileInfo>;
  /** `config.json`, parsed; `{}` when there is none. */
  readonly config: Readonly<Record<string, unknown>>;
  /** `config.json` as it was written: number spellings matter to loaders. */
  readonly configText: string | undefined;
  /**
   * Bytes of a tensor, or of rows of it, in its own dtype.
   *
   * @param into Where they may be put, and are given back from: as many bytes. A source that has
   * them elsewhere gives those.
   * @throws {RangeError} no such tensor, or rows outside it.
   * @throws {CheckpointError} the file ends early or changed since it was opened.
   * @throws {HubError} the Hub does not give them.
   */
  read<B extends ArrayBufferLike = ArrayBuffer>(
    name: string,
    rows?: Rows,
    into?: Uint8Array<B>,
  ): Promise<Uint8Array<ArrayBuffer | B>>;
  /**
   * Text of a file that Sluice writes anew instead of carrying it along (`quantize_config.json`),
   * if it is there.
   */
  readSettings?(path: string): Promise<string | undefined>;
  /** All bytes of one of `files`. */
  readFile(path: string): Promise<Uint8Array<ArrayBuffer>>;
  /**
   * Told the order of the calls of `read` to come, a source may fetch ahead. Calls may be slices of
   * a reading, and others may come between them. A second order replaces what is left of the first.
   */
  schedule?(order: readonly Reading[]): void;
  /** Memory it holds beside the bytes it gave out: buffers of downloads on their way. */
  readonly bufferBytes?: number;
  /**
   * The checkpoint's own model card (README.md), if it has one: licence and language are carried
   * over from it.
   */
  modelCard?(): Promise<string | undefined>;
  /**
   * Resolves when every byte that was given out has been checked, where it can be. To be awaited
   * before an output is committed.
   *
   * @throws {HubError} of kind `damaged`: bytes were not what the repository promises.
   */
  verified?(): Promise<void>;
  /**
   * Before `schedule`: what an earlier process was given, and `verified` is to see to, too. From
   * then on `unchecked` tells of all that was given.
   */
  recheck?(given: readonly Unchecked[]): void;
  /** What `verified` would still have to see to: for who stops and goes on in another process. */
  unchecked?(): readonly Unchecked[];
}
