/**
 * A file that holds tensors: header bytes ↔ what the header says. Pure; does no I/O.
 * Implementation: containers/safetensors.ts.
 */
import type { TensorInfo } from "./tensor.ts";

/** A tensor and where its bytes are, from the start of the file. */
export interface PlacedTensor extends TensorInfo {
  readonly begin: number;
  readonly end: number;
}

/** What a header says. */
export interface Header {
  /** In order of `begin`. */
  readonly tensors: readonly PlacedTensor[];
  /** The `__metadata__` map, or undefined when there is none. */
  readonly metadata: Readonly<Record<string, string>> | undefined;
  /** Bytes of the file before the first tensor. */
  readonly headerBytes: number;
}

/**
 * A file of tensors that is about to be written: its first bytes, and where each tensor will be.
 */
export interface Layout {
  readonly head: Uint8Array<ArrayBuffer>;
  readonly tensors: readonly PlacedTensor[];
  /** Size of the whole file. */
  readonly size: number;
}
