/**
 * The few errors a caller would catch. Wrong calls raise the built-in `TypeError` and `RangeError`.
 * Messages are sentences: what was being done, what was found, what was expected, what to do.
 */

/** A checkpoint's bytes are not what its format demands. */
export class CheckpointError extends Error {
  override readonly name = "CheckpointError";
  readonly file: string | undefined;
  readonly tensor: string | undefined;
  /** Byte offset in the file at which the fault was found. */
  readonly offset: number | undefined;
  constructor(
    message: string,
    { file, tensor, offset, cause }: {
      file?: string;
      tensor?: string;
      offset?: number;
      cause?: unknown;
    } = {},
  ) {
    super(message, { cause });
    this.file = file;
    this.tensor = tensor;
    this.offset = offset;
  }
}

/** Something was asked for that Sluice, a format or a device cannot do. Raised while planning, before anything is written. */
export class UnsupportedError extends Error {
  override readonly name = "UnsupportedError";
  /** The thing that is not supported: a scheme, a tensor, a model type. */
  readonly what: string;
  readonly reason: string;
  constructor(
    message: string,
    { what, reason, cause }: { what: string; reason: string; cause?: unknown },
  ) {
    super(message, { cause });
    this.what = what;
    this.reason = reason;
  }
}

/** The request itself is wrong: an unknown option, a bad recipe, an output folder that exists. */
export class RequestError extends Error {
  override readonly name = "RequestError";
  constructor(message: string, { cause }: { cause?: unknown } = {}) {
    super(message, { cause });
  }
}

/** A device was lost or has no memory left. */
export class DeviceError extends Error {
  override readonly name = "DeviceError";
  /** `memory` can be cured by smaller slices, `lost` and `kernel` cannot. */
  readonly kind: "memory" | "lost" | "kernel" | "absent";
  readonly backend: string;
  /** Bytes asked for, when memory ran out. */
  readonly bytes: number | undefined;
  constructor(
    message: string,
    { kind, backend, bytes, cause }: {
      kind: "memory" | "lost" | "kernel" | "absent";
      backend: string;
      bytes?: number;
      cause?: unknown;
    },
  ) {
    super(message, { cause });
    this.kind = kind;
    this.backend = backend;
    this.bytes = bytes;
  }
}

/** The disk is full, or reading or writing failed. */
export class SpaceError extends Error {
  override readonly name = "SpaceError";
  readonly path: string;
  constructor(message: string, { path, cause }: { path: string; cause?: unknown }) {
    super(message, { cause });
    this.path = path;
  }
}

/**
 * A name from a file or a user, fit to stand in a message: in double quotes, at most 120 characters of it, and with every
 * character that could move a terminal's cursor or turn its text around (controls, bidirectional marks) escaped.
 */
export function quote(name: string): string {
  const shown = name.length > 120 ? `${name.slice(0, 117)}...` : name;
  return JSON.stringify(shown).replace(
    /[\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
