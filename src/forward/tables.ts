/**
 * What of a model is the same for all windows of one length, made once on a device: rotary tables,
 * biases of keys, temperatures, columns.
 */
import type { Scope, Tensor } from "../backend.ts";
import type { Attention, Model } from "../family.ts";

/** See the head of this file. */
export class ModelTables implements Disposable {
  readonly #model: Model;
  readonly #tokens: number;
  readonly #held: Scope;
  readonly #made = new Map<unknown, Tensor>();

  /** @param tokens Tokens of each window. */
  constructor(
    model: Model,
    { tokens, scope }: { readonly tokens: number; readonly scope: Scope },
  ) {
    this.#model = model;
    this.#tokens = tokens;
    this.#held = scope.backend.scope();
  }

  /** Cosines and sines of a rotary table, f32[T, dims/2] each. */
  rotary(name: string): { readonly cos: Tensor; readonly sin: Tensor } {
    const made = () => this.#model.rotary[name]!(this.#tokens);
    return {
      cos: this.#table(`cos ${name}`, () => made().cos),
      sin: this.#table(`sin ${name}`, () => made().sin),
    };
  }

  /** What is added to the scores of keys: f32[heads, T]; [1, 1] where nothing is. */
  bias(bias: Attention["bias"], heads: number): Tensor {
    if (!bias) return this.#tensor("no bias", new Float32Array(1), [1, 1]);
    return this.#tensor(bias, bias(this.#tokens), [heads, this.#tokens]);
  }

  /** What queries are multiplied by at each position: f32[T]. */
  temperature(temperature: NonNullable<Attention["temperature"]>): Tensor {
    return this.#tensor(temperature, temperature(this.#tokens), [this.#tokens]);
  }

  /** u32[N] of an array that is not changed. */
  columns(columns: Uint32Array<ArrayBuffer>): Tensor {
    return this.#tensor(columns, columns, [columns.length]);
  }

  /** f32[N] of one value. */
  constant(value: number, length: number): Tensor {
    return this.#tensor(`${value} × ${length}`, new Float32Array(length).fill(value), [length]);
  }

  #table(key: string, make: () => Float32Array<ArrayBuffer>): Tensor {
    const known = this.#made.get(key);
    if (known) return known;
    const values = make();
    return this.#tensor(key, values, [this.#tokens, values.length / this.#tokens]);
  }

  #tensor(
    key: unknown,
    values: Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>,
    shape: readonly number[],
  ): Tensor {
    return this.#made.getOrInsertComputed(key, () => {
      const dtype = values instanceof Uint32Array ? "u32" : "f32";
      const tensor = this.#held.alloc(dtype, shape);
      this.#held.backend.write(tensor, new Uint8Array(values.buffer));
      return tensor;
    });
  }

  [Symbol.dispose](): void {
    this.#held[Symbol.dispose]();
    this.#made.clear();
  }
}
