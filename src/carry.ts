/**
 * What passes from unit to unit of a run, as bytes: each part of a run that has some writes its
 * own, and reads them back in the same order when the run goes on after it was stopped.
 * Implementations: forward/streams.ts, calibration/pass.ts; where the bytes lie:
 * sinks/carry_files.ts.
 */

/** Takes bytes, one piece after another. */
export interface CarryWriter {
  write(bytes: Uint8Array<ArrayBuffer>): Promise<void>;
}

/** Gives them back. */
export interface CarryReader {
  /**
   * The next `size` bytes.
   *
   * @throws {RequestError} there are fewer.
   */
  read(size: number): Promise<Uint8Array<ArrayBuffer>>;
}

/** A number, as 8 bytes. */
export async function saveNumber(value: number, to: CarryWriter): Promise<void> {
  await to.write(new Uint8Array(Float64Array.of(value).buffer));
}

/** The next number. */
export async function restoreNumber(from: CarryReader): Promise<number> {
  const bytes = await from.read(8);
  return new DataView(bytes.buffer, bytes.byteOffset).getFloat64(0, true);
}

/** A part of a run that goes on from unit to unit. */
export interface Carried {
  /** Write everything that the units to come need of those that are done. */
  save(to: CarryWriter): Promise<void>;
  /** Take it back, in place of what the units that are done would have made. */
  restore(from: CarryReader): Promise<void>;
}
