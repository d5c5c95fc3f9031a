/** What is kept of a calibration's windows while they stand at a stop. */
import type { Backend, Scope, Tensor } from "../backend.ts";
import type { State } from "../family.ts";
import { HiddenStates } from "../forward/hidden_states.ts";
import type { SpillStore } from "../forward/spill_file.ts";
import type { States } from "../forward/states.ts";
import type { BlockGraph, Stage } from "../graph/block_graph.ts";
import type { KeptStacks } from "../plan/stacks.ts";

/** Where what is kept of windows goes. */
export interface Keeping extends KeptStacks {
  readonly backend: Backend;
  readonly spill: SpillStore | undefined;
}

/** What is kept of all windows in one stream, between two stops. */
export class KeptStates implements AsyncDisposable {
  readonly #keeping: Keeping;
  readonly #stores = new Map<State, HiddenStates>();
  /** States to be kept at the stop that windows go to. */
  #wanted: readonly State[] = [];
  #held: readonly State[] = [];

  constructor(keeping: Keeping) {
    this.#keeping = keeping;
  }

  /** A store of a state of `width` floats a token. */
  async open(state: State, width: number): Promise<HiddenStates> {
    const known = this.#stores.get(state);
    if (known) return known;
    const store = await HiddenStates.open({ ...this.#keeping, channels: width, dtype: "bf16" });
    this.#stores.set(state, store);
    return store;
  }

  /** Keep states at all stops, until others are named. */
  hold(...states: State[]): void {
    this.#held = states;
  }

  /** Make room for what is to be kept at a place. */
  async expect(graph: BlockGraph, place: number): Promise<void> {
    this.#wanted = [...new Set([...this.#held, ...graph.resumption(place).states])];
    for (const state of this.#wanted) await this.open(state, graph.width(state));
  }

  /** A state of all stacks. */
  get(state: State): HiddenStates {
    return this.#stores.get(state)!;
  }

  /** A stack's states. */
  async load(stack: number, scope: Scope): Promise<Map<State, Tensor>> {
    const given = new Map<State, Tensor>();
    for (const [state, store] of this.#stores) {
      if (store.has(stack)) given.set(state, await store.get(stack, scope));
    }
    return given;
  }

  /** Keep what is wanted of a stack, unless it is what was given, and forget the rest. */
  async store(
    stack: number,
    { given, states, scope }: {
      readonly given: ReadonlyMap<State, Tensor>;
      readonly states: States;
      readonly scope: Scope;
    },
  ): Promise<void> {
    for (const [state, store] of this.#stores) {
      if (!this.#wanted.includes(state)) {
        if (store.has(stack)) store.drop(stack);
        continue;
      }
      if (!given.has(state)) await store.set(stack, states.get(state), scope);
    }
  }

  /**
   * Close stores of what is not kept any more; at the end of a block its output is the input of the
   * next.
   */
  async settle(graph: BlockGraph, to: Stage | undefined): Promise<void> {
    for (const [state, store] of this.#stores) {
      if (this.#wanted.includes(state)) continue;
      this.#stores.delete(state);
      await store[Symbol.asyncDispose]();
    }
    const { input, output } = graph.block;
    const last = this.#stores.get(output);
    if (to || !last) return;
    this.#stores.delete(output);
    this.#stores.set(input, last);
  }

  /** Forget all states but those that are held. */
  async drop(): Promise<void> {
    for (const [state, store] of this.#stores) {
      if (this.#held.includes(state)) continue;
      this.#stores.delete(state);
      await store[Symbol.asyncDispose]();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const store of this.#stores.values()) await store[Symbol.asyncDispose]();
    this.#stores.clear();
  }
}
