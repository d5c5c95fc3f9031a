/** Where an output goes. Nothing is visible under its final name until everything is committed. */
import type { CarryReader, CarryWriter } from "./carry.ts";

/**
 * A place that takes files whose sizes are known before their bytes. Implementation:
 * sinks/folder.ts.
 */
export interface Sink extends AsyncDisposable {
  /** Where it is, as a person wrote it. */
  readonly label: string;
  /** How a run into it goes on after it was stopped; absent: it does not. */
  readonly resumption?: Resumption;
  /** The files so far; absent where they cannot be looked at. */
  readonly stored?: StoredFiles;
  /**
   * Begin a file of `size` bytes.
   *
   * @throws {SpaceError} the disk has no room, or the file cannot be made.
   */
  create(path: string, size: number): Promise<SinkFile>;
  /**
   * Make all committed files visible under their final names at once. Disposing without this leaves
   * nothing behind, unless a run can go on with it.
   */
  commit(): Promise<void>;
}

/** Files of an output that is not committed yet. */
export interface StoredFiles {
  /**
   * Present where there is little room: before another file begins, those whose bytes were all
   * given are to be committed, for they may leave.
   */
  readonly crowded?: true;
  /** Bytes of a file as they are now, finished or not. */
  read(path: string, span: Span): Promise<Uint8Array<ArrayBuffer>>;
  /** Remove a committed file, if it is there: it is kept elsewhere. */
  free(path: string): Promise<void>;
}

/** A file being filled. Every offset is known from the plan, so pieces may arrive in any order. */
export interface SinkFile extends AsyncDisposable {
  /** Present where the file is kept elsewhere: what is written to it is forgotten. */
  readonly elsewhere?: true;
  /** @throws {RangeError} the piece does not fit in the planned size. */
  write(offset: number, bytes: Uint8Array): Promise<void>;
  /** Wait until everything written is on the disk. @throws {SpaceError} */
  sync(): Promise<void>;
  /** Flush to the disk and close. @throws {SpaceError} */
  commit(): Promise<void>;
}

/** Bytes `[begin, end)` of a file. */
export interface Span {
  readonly begin: number;
  readonly end: number;
}

/** A file of the carry. */
export interface CarryFile {
  /** In hex; the file's name, too. */
  readonly sha256: string;
  readonly bytes: number;
}

/**
 * What lies beside the files while they grow, for a run that is to go on after it was stopped: a
 * journal of what is done, and the carry. A journal with one record, which says of what run it is,
 * is worth nothing; with more, disposing of the sink leaves everything for the next run.
 */
export interface Resumption {
  /** The journal, the first record first; empty in a new one. */
  readonly records: readonly unknown[];
  /**
   * Add a record; it is on the disk when this resolves.
   *
   * @throws {SpaceError} the system refuses it.
   */
  append(record: unknown): Promise<void>;
  /**
   * Go on with a file that an earlier run began.
   *
   * @param spans Where it has bytes that count.
   * @throws {RequestError} there is no such file of that size.
   */
  reopen(path: string, size: number, spans: readonly Span[]): Promise<SinkFile>;
  /** Wait until the names of all files are on the disk. */
  sync(): Promise<void>;
  /**
   * Write a file of the carry; it is on the disk when this resolves.
   *
   * @throws {SpaceError} the disk is full.
   */
  saveCarry(fill: (to: CarryWriter) => Promise<void>): Promise<CarryFile>;
  /**
   * Read a file of the carry.
   *
   * @throws {RequestError} it is not there, or not what was written.
   */
  readCarry(file: CarryFile, take: (from: CarryReader) => Promise<void>): Promise<void>;
  /** Remove all files of the carry but one. */
  keepCarry(file: CarryFile | undefined): Promise<void>;
}
