/**
 * What rounds the weights of a stage, one at a time: it may hold a matrix as large as the Gram
 * matrix.
 */
import type { Backend, Scope } from "../backend.ts";
import type { Rounder } from "../method.ts";
import type { Statistics } from "../observer.ts";
import type { Trace } from "../trace.ts";
import type { Group } from "./group.ts";

/** What opening a rounding takes. */
interface RoundingsContext {
  readonly backend: Backend;
  /** Of the stage's input. */
  readonly statistics: Statistics;
  /** Where what the report tells of when the block is done goes. */
  readonly scope: Scope;
  readonly trace: Trace;
  readonly signal?: AbortSignal | undefined;
}

/** See the head of this file. */
export class Roundings implements Disposable {
  readonly #context: RoundingsContext;
  #last:
    | { readonly group: Group; readonly rounder: Rounder; readonly held: Disposable }
    | undefined;

  constructor(context: RoundingsContext) {
    this.#context = context;
  }

  /** That of a group of weights, until that of another is asked for. */
  async of(group: Group): Promise<Rounder> {
    if (this.#last?.group === group) return this.#last.rounder;
    this[Symbol.dispose]();
    const { backend, statistics, trace, signal } = this.#context;
    using held = new DisposableStack();
    const scope = held.use(backend.scope());
    const open = () => group.open({ scope, statistics, signal });
    const rounder = await trace.time("solve", open);
    const { importance } = rounder.remarks;
    if (importance) this.#context.scope.adopt(scope.release(importance));
    this.#last = { group, rounder, held: held.move() };
    return rounder;
  }

  [Symbol.dispose](): void {
    this.#last?.held[Symbol.dispose]();
    this.#last = undefined;
  }
}
