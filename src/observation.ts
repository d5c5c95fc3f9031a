/** Several observers at work on one input. */
import type { Tensor } from "./backend.ts";
import { type Observation, type ObserveOptions, type Observer, Statistics } from "./observer.ts";

/** What observers gather together. */
export interface Observations {
  /** Take in a window's inputs, f32[T, C]. */
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
    async finish() {
      const results = new Map<Observer, unknown>();
      for (const [observer, observation] of opened) {
        results.set(observer, await observation.finish());
      }
      return new Statistics(results, options);
    },
  };
}
