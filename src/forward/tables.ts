/**
 * What of a model is the same for all windows of one length, made once on a device: rotary tables,
 * biases of keys, temperatures, columns. What is looked up by a token's place is there for as many
 * rows as windows in a stack have tokens, and begins anew with each window.
 */
import type { Scope, Tensor } from "../backend.ts";
import type { Attention, Model } from "../family.ts";
import { upload } from "../linalg/channels.ts";

/** See the head of this file. */
export class ModelTables implements Disposable {
  readonly #model: Model;
  readonly #tokens: number;
  readonly #held: Scope;
  readonly #made = new Map<unknown, Tensor>();
  /** By what computes them, and by rows. */
  readonly #temperatures = new Map<unknown, Map<number, Tensor>>();

  /** @param tokens Tokens of each window. */
  constructor(
    model: Model,
    { tokens, scope }: { readonly tokens: number; readonly scope: Scope },
  ) {
    this.#model = model;
    this.#tokens = tokens;
    this.#held = scope.backend.scope();
  }

  /** Tokens of each window. */
  get tokens(): number {
    return this.#tokens;
  }

  /** Cosines and sines of a rotary table for windows of `rows` tokens, f32[rows, dims/2] each. */
  rotary(name: string, rows: number): { readonly cos: Tensor; readonly sin: Tensor } {
    const made = () => this.#model.rotary[name]!(this.#tokens);
    return {
      cos: this.#table(`cos ${name}`, rows, () => made().cos),
      sin: this.#table(`sin ${name}`, rows, () => made().sin),
    };
  }

  /** The table of {@linkcode rotary} that turns gradients back. */
  rotaryBack(name: string, rows: number): { readonly cos: Tensor; readonly sin: Tensor } {
    const made = () => this.#model.rotary[name]!(this.#tokens).sin.map((value) => -value);
    return {
      cos: this.rotary(name, rows).cos,
      sin: this.#table(`−sin ${name}`, rows, made),
    };
  }

  /** What is added to the scores of keys: f32[heads, T]; [1, 1] where nothing is. */
  bias(bias: Attention["bias"], heads: number): Tensor {
    if (!bias) return this.#tensor("no bias", new Float32Array(1), [1, 1]);
    return this.#tensor(bias, bias(this.#tokens), [heads, this.#tokens]);
  }

  /** What queries of windows of `rows` tokens are multiplied by at each position: f32[rows]. */
  temperature(temperature: NonNullable<Attention["temperature"]>, rows: number): Tensor {
    const known = this.#temperatures.getOrInsertComputed(temperature, () => new Map());
    return known.getOrInsertComputed(rows, () => {
      const values = repeated(temperature(this.#tokens), rows / this.#tokens);
      return upload(values, this.#held);
    });
  }

  /** u32[N] of an array that is not changed. */
  columns(columns: Uint32Array<ArrayBuffer>): Tensor {
    return this.#tensor(columns, columns, [columns.length]);
  }

  /** f32[N] of one value. */
  constant(value: number, length: number): Tensor {
    return this.#tensor(`${value} × ${length}`, new Float32Array(length).fill(value), [length]);
  }

  #table(name: string, rows: number, make: () => Float32Array<ArrayBuffer>): Tensor {
    const key = `${name} × ${rows}`;
    const known = this.#made.get(key);
    if (known) return known;
    const values = repeated(make(), rows / this.#tokens);
    return this.#tensor(key, values, [rows, values.length / rows]);
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
    this.#temperatures.clear();
  }
}

/** Some values, so many times. */
function repeated(values: Float32Array<ArrayBuffer>, times: number): Float32Array<ArrayBuffer> {
  const all = new Float32Array(values.length * times);
  for (let i = 0; i < times; i++) all.set(values, i * values.length);
  return all;
}
