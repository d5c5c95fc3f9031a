/** Where an output goes. Nothing is visible under its final name until everything is committed. */

/**
 * A place that takes files whose sizes are known before their bytes. Implementation:
 * sinks/folder.ts.
 */
export interface Sink extends AsyncDisposable {
  /** Where it is, as a person wrote it. */
  readonly label: string;
  /**
   * Begin a file of `size` bytes.
   *
   * @throws {SpaceError} the disk has no room, or the file cannot be made.
   */
  create(path: string, size: number): Promise<SinkFile>;
  /**
   * Make all committed files visible under their final names at once. Disposing without this leaves
   * nothing behind.
   */
  commit(): Promise<void>;
}

/** A file being filled. Every offset is known from the plan, so pieces may arrive in any order. */
export interface SinkFile extends AsyncDisposable {
  /** @throws {RangeError} the piece does not fit in the planned size. */
  write(offset: number, bytes: Uint8Array): Promise<void>;
  /** Flush to the disk and close. @throws {SpaceError} */
  commit(): Promise<void>;
}
