/** What a search keeps while it compares losses: one rule for all of them of what is better. */

/**
 * Of the values that were offered, the one with the least loss: the first, if several have it. NaN
 * and infinity are no losses that win.
 */
export class Least<T> {
  #value: T;
  #loss = Infinity;

  /** @param fallback The value while nothing with a finite loss was offered. */
  constructor(fallback: T) {
    this.#value = fallback;
  }

  get value(): T {
    return this.#value;
  }

  /** The loss of the value; infinite of the fallback. */
  get loss(): number {
    return this.#loss;
  }

  /** Take a value if its loss is less than all before; whether it was. */
  offer(value: T, loss: number): boolean {
    // Not so for NaN.
    const less = loss < this.#loss;
    if (less) [this.#value, this.#loss] = [value, loss];
    return less;
  }
}
