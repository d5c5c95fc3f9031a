/**
 * Gradients by the states of a block on the way back: a state that several nodes read gets the sum,
 * and states that have one gradient share it until one of them is to change. What a gradient is,
 * whoever goes back says: tensors, or while a plan is made their sizes.
 */
import type { State } from "../family.ts";

/** What can be done with a gradient. */
export interface GradientMemory<G> {
  /** A new one, `times` as large. */
  copy(gradient: G, times: number): G;
  /** into += times · gradient */
  add(into: G, gradient: G, times: number): void;
  free(gradient: G): void;
}

/** See the head of this file. */
export class Gradients<G> {
  readonly #memory: GradientMemory<G>;
  readonly #of = new Map<State, G>();
  readonly #holders = new Map<G, number>();

  constructor(memory: GradientMemory<G>) {
    this.#memory = memory;
  }

  has(state: State): boolean {
    return this.#of.has(state);
  }

  /** To be read. */
  get(state: State): G {
    const gradient = this.#of.get(state);
    if (gradient === undefined) {
      throw new RangeError(`Cannot go back: the state "${state}" has no gradient`);
    }
    return gradient;
  }

  /** Begin with a gradient that stays its owner's. */
  lend(state: State, gradient: G): void {
    this.#of.set(state, gradient);
    this.#holders.set(gradient, 2);
  }

  /** Add a gradient, which is this object's from now on. */
  put(state: State, gradient: G): void {
    if (this.has(state)) {
      this.#memory.add(this.own(state), gradient, 1);
      this.#memory.free(gradient);
    } else {
      this.#of.set(state, gradient);
      this.#holders.set(gradient, 1);
    }
  }

  /** Add `times` the gradient of another state. */
  share(state: State, from: State, times: number): void {
    const gradient = this.get(from);
    if (this.has(state)) this.#memory.add(this.own(state), gradient, times);
    else if (times !== 1) this.put(state, this.#memory.copy(gradient, times));
    else {
      this.#of.set(state, gradient);
      this.#holders.set(gradient, this.#holders.get(gradient)! + 1);
    }
  }

  /** A state's gradient to be changed in place: it is shared with no other. */
  own(state: State): G {
    const gradient = this.get(state);
    if (this.#holders.get(gradient) === 1) return gradient;
    const copy = this.#memory.copy(gradient, 1);
    this.drop(state);
    this.put(state, copy);
    return copy;
  }

  /** Take a state's gradient away, as {@linkcode own} gives it. */
  take(state: State): G {
    const gradient = this.own(state);
    this.#of.delete(state);
    this.#holders.delete(gradient);
    return gradient;
  }

  /** Forget a state's gradient, and free it where no other state has it. */
  drop(state: State): void {
    const gradient = this.get(state);
    const holders = this.#holders.get(gradient)! - 1;
    this.#of.delete(state);
    if (holders > 0) this.#holders.set(gradient, holders);
    else {
      this.#holders.delete(gradient);
      this.#memory.free(gradient);
    }
  }
}
