/** Windows as a block is trained on them: its input, and what it should make of it. */
import type { Scope, Tensor } from "../backend.ts";
import type { HiddenStates } from "../forward/hidden_states.ts";
import type { ModelTables } from "../forward/tables.ts";
import { copyRectangle } from "../ops/copy.ts";

/** Some windows below each other, f32[T, C] both. */
export interface TrainingBatch {
  readonly x: Tensor;
  readonly target: Tensor;
}

/** See the head of this file. */
export class TrainingWindows {
  readonly tables: ModelTables;
  readonly #inputs: HiddenStates;
  readonly #targets: HiddenStates;

  constructor(
    { inputs, targets, tables }: {
      readonly inputs: HiddenStates;
      readonly targets: HiddenStates;
      readonly tables: ModelTables;
    },
  ) {
    this.#inputs = inputs;
    this.#targets = targets;
    this.tables = tables;
  }

  /** How many there are. */
  get count(): number {
    return this.#inputs.rows.reduce((sum, rows) => sum + rows, 0) / this.tables.tokens;
  }

  /** These windows, in `scope`. */
  async batch(windows: readonly number[], scope: Scope): Promise<TrainingBatch> {
    return {
      x: await this.#gather(this.#inputs, windows, scope),
      target: await this.#gather(this.#targets, windows, scope),
    };
  }

  async #gather(states: HiddenStates, windows: readonly number[], scope: Scope): Promise<Tensor> {
    const { tokens } = this.tables;
    let all: Tensor | undefined;
    for (const [i, window] of windows.entries()) {
      using scratch = scope.backend.scope();
      const { stack, row } = placeOf(states.rows, window * tokens);
      const tensor = await states.get(stack, scratch);
      const [, columns = 0] = tensor.shape;
      all ??= scope.alloc("f32", [windows.length * tokens, columns]);
      copyRectangle(scope.backend, {
        from: { tensor, row },
        to: { tensor: all, row: i * tokens },
      }, { rows: tokens, columns });
    }
    return all!;
  }
}

/** The stack that a row of all windows is in, and its place there. */
function placeOf(
  stacks: readonly number[],
  row: number,
): { readonly stack: number; readonly row: number } {
  let [stack, first] = [0, 0];
  while (first + stacks[stack]! <= row) first += stacks[stack++]!;
  return { stack, row: row - first };
}
