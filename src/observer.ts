/**
 * An observer gathers a statistic of a linear's input while the windows of calibration pass by.
 * Methods and schemes say which they need. Implementations: observers/, each in its own file.
 */
import type { Scope, Tensor } from "./backend.ts";
import type { Carried, CarryReader, CarryWriter } from "./carry.ts";

/** A statistic of the input of one step's linears. `R` is what is known in the end. */
export interface Observer<R = unknown> {
  readonly name: string;
  /**
   * Bytes of device memory for inputs of this many channels and, of all windows together, tokens.
   */
  bytes(channels: number, tokens: number): number;
  /** Begin to observe. */
  open(options: ObserveOptions): Observation<R>;
}

/** What is known when an observer begins. */
export interface ObserveOptions {
  readonly channels: number;
  /** Tokens of all windows that will pass. */
  readonly tokens: number;
  /** Tokens of each window; unless given, as many as are added at a time. */
  readonly windowTokens?: number;
  /** Tokens of the windows before the first that is added, which others add: 0 unless given. */
  readonly firstToken?: number;
  /** What is kept on the device belongs to it. */
  readonly scope: Scope;
  /** Ends what takes long when it is aborted. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * One statistic being gathered. What is saved of one, and restored to another of the same options,
 * counts there as the windows that come next: what is gathered of shards of the windows, each of
 * them anywhere, adds up in order to the same bits.
 */
export interface Observation<R = unknown> extends Carried {
  /** Take in the inputs of whole windows, f32[T, channels]. */
  add(x: Tensor): void | Promise<void>;
  /** What all of it comes to. */
  finish(): Promise<R>;
}

/** What was observed of one step's input. */
export class Statistics {
  readonly channels: number;
  /** Tokens seen. */
  readonly tokens: number;
  readonly #results: ReadonlyMap<Observer, unknown>;

  constructor(
    results: ReadonlyMap<Observer, unknown>,
    { channels, tokens }: { readonly channels: number; readonly tokens: number },
  ) {
    this.channels = channels;
    this.tokens = tokens;
    this.#results = results;
  }

  /** What some of the observers found, as if the others had not looked. */
  only(observers: Iterable<Observer>): Statistics {
    const own = new Set(observers);
    const results = [...this.#results].filter(([observer]) => own.has(observer));
    return new Statistics(new Map(results), this);
  }

  /** Whether an observer looked. */
  has(observer: Observer): boolean {
    return this.#results.has(observer);
  }

  /**
   * What an observer found.
   *
   * @throws {RangeError} it did not look.
   */
  of<R>(observer: Observer<R>): R {
    if (!this.#results.has(observer)) {
      throw new RangeError(`Cannot use the statistic "${observer.name}": it was not observed`);
    }
    return this.#results.get(observer) as R;
  }
}

/** What observers gather together. */
export interface Observations extends Carried {
  /** Take in the inputs of whole windows, f32[T, C]. */
  add(x: Tensor): Promise<void>;
  finish(): Promise<Statistics>;
}

/** Begin to observe by several observers. */
export function openObservations(
  observers: readonly Observer[],
  options: ObserveOptions,
): Observations {
  const opened = observers.map((observer): readonly [Observer, Observation] => [
    observer,
    observer.open(options),
  ]);
  return {
    async add(x) {
      for (const [, observation] of opened) await observation.add(x);
    },
    async save(to: CarryWriter) {
      for (const [, observation] of opened) await observation.save(to);
    },
    async restore(from: CarryReader) {
      for (const [, observation] of opened) await observation.restore(from);
    },
    async finish() {
      const results = new Map<Observer, unknown>();
      for (const [observer, observation] of opened) {
        results.set(observer, await observation.finish());
      }
      return new Statistics(results, options);
    },
  };
}
