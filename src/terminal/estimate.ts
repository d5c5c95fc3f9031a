/**
 * How far a run is, and how long it will take. A run has two kinds of work, weights (counted in
 * bytes) and windows of the evaluation (counted in window-blocks), which take turns; each has its
 * own speed, learned from the time between two of its events. Weights that are only copied teach
 * nothing: those that are quantized take far longer.
 */

/**
 * Bytes of weights that take about as long as one window through one block: a guess for the share
 * that is done, not for the time left.
 */
const BYTES_PER_WINDOW = 4e6;

/** One kind of work. */
class Work {
  total = 0;
  done = 0;
  /** What of it the speed was learned from. */
  learned = 0;
  seconds = 0;

  /** Seconds the rest will take, at the speed so far; undefined while nothing is known. */
  left(): number | undefined {
    const rest = this.total - this.done;
    if (rest <= 0) return 0;
    return this.learned > 0 ? rest * this.seconds / this.learned : undefined;
  }
}

/** Progress of one run. `now` gives seconds. */
export class Estimate {
  readonly #now: () => number;
  readonly #begun: number;
  readonly #weights = new Work();
  readonly #windows = new Work();
  #last: number;

  constructor(now: () => number) {
    this.#now = now;
    this.#begun = this.#last = now();
  }

  /** What there is to do. */
  expect({ bytes, windows }: { bytes?: number; windows?: number }): void {
    this.#weights.total = bytes ?? this.#weights.total;
    this.#windows.total = windows ?? this.#windows.total;
  }

  /** What an earlier run has done, which teaches nothing. */
  resume({ bytes, windows }: { bytes: number; windows: number }): void {
    this.#weights.done = bytes;
    this.#windows.done = windows;
    this.#last = this.#now();
  }

  /** Bytes of weights that have just been copied as they are. */
  addCopied(bytes: number): void {
    this.#weights.done += bytes;
    this.#last = this.#now();
  }

  /** Bytes of weights that have just been quantized. */
  addBytes(bytes: number): void {
    this.#count(this.#weights, this.#weights.done + bytes);
  }

  /** Window-blocks that have been done in all. */
  setWindows(done: number): void {
    this.#count(this.#windows, done);
  }

  #count(work: Work, done: number): void {
    const now = this.#now();
    work.seconds += now - this.#last;
    work.learned += done - work.done;
    work.done = done;
    this.#last = now;
  }

  /** The share that is done, 0 to 1. */
  get share(): number {
    const done = this.#weights.done + this.#windows.done * BYTES_PER_WINDOW;
    const total = this.#weights.total + this.#windows.total * BYTES_PER_WINDOW;
    return total === 0 ? 0 : Math.min(1, done / total);
  }

  /** Seconds since the start. */
  get elapsed(): number {
    return this.#now() - this.#begun;
  }

  /**
   * Seconds left, as far as is known; undefined, too, once no step was counted for as long as all
   * that were left should have taken.
   */
  get left(): number | undefined {
    const weights = this.#weights.left();
    const windows = this.#windows.left();
    if (weights === undefined || windows === undefined) return undefined;
    const left = weights + windows - (this.#now() - this.#last);
    return left >= 0 ? left : undefined;
  }
}
