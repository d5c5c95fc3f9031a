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

/**
 * Something was asked for that Sluice, a format or a device cannot do. Raised while planning,
 * before anything is written.
 */
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

/** A device was lost, has no memory left, or computes wrongly. */
export class DeviceError extends Error {
  override readonly name = "DeviceError";
  /** `memory` can be cured by smaller slices, `lost`, `kernel` and `wrong` (results) cannot. */
  readonly kind: "memory" | "lost" | "kernel" | "absent" | "wrong";
  readonly backend: string;
  /** Bytes asked for, when memory ran out. */
  readonly bytes: number | undefined;
  constructor(
    message: string,
    { kind, backend, bytes, cause }: {
      kind: DeviceError["kind"];
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

/** What went wrong with the Hub; each has its sentence. */
export type HubFault =
  /** There is no such repository, or it is private and this token may not see it. */
  | "missing-repo"
  | "missing-revision"
  | "missing-file"
  /** Its terms must be accepted first. */
  | "gated"
  /** The token is wrong. */
  | "unauthorized"
  /** The token is right but may not. */
  | "forbidden"
  | "rate-limited"
  /** The network was forbidden by the user. */
  | "offline"
  | "unreachable"
  /** The server failed, again and again. */
  | "server"
  /** An answer breaks the rules of HTTP or of the Hub. */
  | "protocol"
  /** Bytes are not those that the repository's hashes promise. */
  | "damaged"
  /** Someone else changed the repository meanwhile. */
  | "conflict";

/** The Hugging Face Hub, or the way to it, refused something. The message ends with what to do. */
export class HubError extends Error {
  override readonly name = "HubError";
  readonly kind: HubFault;
  /** HTTP status of the answer, if there was one. */
  readonly status: number | undefined;
  /** What was asked for, without its query: signed URLs hold secrets there. */
  readonly url: string | undefined;
  constructor(
    message: string,
    { kind, status, url, cause }: {
      kind: HubFault;
      status?: number | undefined;
      url?: string | undefined;
      cause?: unknown;
    },
  ) {
    super(message, { cause });
    this.kind = kind;
    this.status = status;
    this.url = url;
  }
}

/**
 * A name from a file or a user, fit to stand in a message: in double quotes, at most 120 characters
 * of it, and with every character that could move a terminal's cursor or turn its text around
 * (controls, bidirectional marks) escaped.
 */
export function quote(name: string): string {
  const shown = name.length > 120 ? `${name.slice(0, 117)}...` : name;
  return escapeControls(JSON.stringify(shown));
}

/** A text with every character escaped that could move a cursor, turn text around or hide in it. */
export function escapeControls(text: string): string {
  return text.replace(
    // deno-lint-ignore no-control-regex -- the pattern is of control characters
    /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
