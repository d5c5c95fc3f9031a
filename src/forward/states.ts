/**
 * The states of one window within a block, while it is walked: which tensor each is, and which of
 * them are this walk's to change and to free.
 */
import type { Scope, Tensor } from "../backend.ts";
import type { State } from "../family.ts";

/** See the head of this file. */
export class States {
  readonly #tensors: Map<State, Tensor>;
  readonly #own = new Set<State>();
  readonly #scope: Scope;

  /** @param given States that others keep: they are read, and neither changed nor freed. */
  constructor(given: Iterable<readonly [State, Tensor]>, scope: Scope) {
    this.#tensors = new Map(given);
    this.#scope = scope;
  }

  /** The tensor of a state, f32[T, n]. */
  get(state: State): Tensor {
    const tensor = this.#tensors.get(state);
    if (!tensor) throw new RangeError(`Cannot walk on: the state "${state}" is not at hand`);
    return tensor;
  }

  /** A state that this walk has made; the tensor is in its scope. */
  set(state: State, tensor: Tensor): void {
    this.#tensors.set(state, tensor);
    this.#own.add(state);
  }

  /** Whether there is a tensor of a state. */
  has(state: State): boolean {
    return this.#tensors.has(state);
  }

  /** The states that are this walk's. */
  get own(): readonly State[] {
    return [...this.#own];
  }

  /** Whether a state is this walk's to change. */
  owns(state: State): boolean {
    return this.#own.has(state);
  }

  /** The tensor of a state that was this walk's and is no state any more; it may be changed. */
  take(state: State): Tensor {
    const tensor = this.get(state);
    this.#own.delete(state);
    this.#tensors.delete(state);
    return tensor;
  }

  /** Forget a state, and free it if it is this walk's. */
  drop(state: State): void {
    const tensor = this.#tensors.get(state);
    if (tensor && this.#own.has(state)) this.#scope.release(tensor)[Symbol.dispose]();
    this.#own.delete(state);
    this.#tensors.delete(state);
  }
}
