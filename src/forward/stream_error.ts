/**
 * How far the quantized model's residual stream is from the original's, block after block and token
 * after token: errors of one block are the input of the next.
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import type { Carried, CarryReader, CarryWriter } from "../carry.ts";
import { rowDots } from "../ops/row_dots.ts";
import { difference } from "../ops/subtract.ts";

/** Relative errors ‖x̃ − x‖ / ‖x‖ of the residual stream, over all windows. */
export interface StreamErrors {
  /** Behind each block, over all tokens. */
  readonly blocks: readonly number[];
  /** Behind the last block, by place in a window: of {@linkcode tokensPerPosition} tokens each. */
  readonly positions: readonly number[];
  readonly tokensPerPosition: number;
}

/** Most places that errors are told of. */
const POSITIONS = 64;

/** Σ(x̃ − x)² and Σx² of a token, f32[T] each. */
interface Squares {
  readonly apart: Tensor;
  readonly whole: Tensor;
}

/** Gathers squares on the device, which are read once, at the end. */
export class StreamErrorSums implements Carried {
  readonly #scope: Scope;
  /** Tokens of all windows. */
  readonly #tokens: number;
  readonly #blocks: Squares[][] = [];

  /** @param scope What is kept belongs to it. */
  constructor(scope: Scope, tokens: number) {
    this.#scope = scope;
    this.#tokens = tokens;
  }

  /** Both models' states of a stack of windows behind a block: f32[T, C]. */
  add(block: number, { original, quantized }: { original: Tensor; quantized: Tensor }): void {
    const { backend } = this.#scope;
    using scratch = backend.scope();
    const squares = (x: Tensor) => {
      const y = this.#scope.alloc("f32", [x.shape[0]!]);
      backend.run(rowDots, { a: x, b: x, y });
      return y;
    };
    (this.#blocks[block] ??= []).push({
      apart: squares(difference(quantized, original, scratch)),
      whole: squares(original),
    });
  }

  /** How many blocks there are, then of each all squares apart and all squares whole. */
  async save(to: CarryWriter): Promise<void> {
    await to.write(new Uint8Array(Uint32Array.of(this.#blocks.length).buffer));
    const { backend } = this.#scope;
    for (const stacks of this.#blocks) {
      const squares = [...stacks.map(({ apart }) => apart), ...stacks.map(({ whole }) => whole)];
      for (const bytes of await backend.read(...squares)) await to.write(bytes);
    }
  }

  /** The windows of a block in one stack, however they were stacked. */
  async restore(from: CarryReader): Promise<void> {
    const { backend } = this.#scope;
    const [blocks] = new Uint32Array((await from.read(4)).buffer);
    const read = async () => {
      const y = this.#scope.alloc("f32", [this.#tokens]);
      backend.write(y, await from.read(4 * this.#tokens));
      return y;
    };
    this.#blocks.length = 0;
    for (let block = 0; block < blocks!; block++) {
      this.#blocks.push([{ apart: await read(), whole: await read() }]);
    }
  }

  /**
   * What was gathered.
   *
   * @param seqLen Tokens of a window.
   */
  async finish(backend: Backend, seqLen: number): Promise<StreamErrors> {
    const kept = this.#blocks.flatMap((stacks) => stacks);
    const read = (await backend.read(...kept.flatMap(({ apart, whole }) => [apart, whole])))
      .map((bytes) => new Float32Array(bytes.buffer));
    let at = 0;
    const tokensPerPosition = Math.ceil(seqLen / POSITIONS);
    const blocks: number[] = [];
    let positions: number[] = [];
    for (const stacks of this.#blocks) {
      const count = Math.ceil(seqLen / tokensPerPosition);
      const [apart, whole] = [new Float64Array(count), new Float64Array(count)];
      for (const _ of stacks) {
        const [errors, states] = [read[at++]!, read[at++]!];
        errors.forEach((square, token) => {
          const place = Math.floor(token % seqLen / tokensPerPosition);
          apart[place]! += square;
          whole[place]! += states[token]!;
        });
      }
      const total = (sums: Float64Array) => sums.reduce((sum, square) => sum + square, 0);
      blocks.push(relative(total(apart), total(whole)));
      positions = Array.from(apart, (square, place) => relative(square, whole[place]!));
    }
    return { blocks, positions, tokensPerPosition };
  }
}

/** √(apart / whole); 0 where nothing is apart. */
function relative(apart: number, whole: number): number {
  return apart === 0 ? 0 : Math.sqrt(apart / whole);
}
