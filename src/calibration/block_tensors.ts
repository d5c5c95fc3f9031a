/** A block's tensors while it is quantized: codes as far as they are chosen, and what it had. */
import type { Scope, Tensor } from "../backend.ts";
import type { MatrixRows, TapeTensors } from "../forward/backward.ts";
import type { LoadedBlock } from "../forward/loaded_block.ts";
import type { Matrix } from "../graph/matrices.ts";
import { addBias } from "../ops/mod.ts";
import { schemeKind } from "../schemes/mod.ts";
import { productOf, type QuantizedWeight } from "./quantized_weight.ts";
import type { Smoothable } from "./smoothing.ts";

/** See the head of this file. */
export class BlockTensors implements TapeTensors, Smoothable {
  readonly weights = new Map<string, QuantizedWeight>();
  /** Norms and biases that took over scales, in the dtype they are stored in, on the device. */
  readonly vectors = new Map<string, Tensor>();
  readonly #original: LoadedBlock;

  constructor(original: LoadedBlock) {
    this.#original = original;
  }

  /** A product of the quantized stream: from the codes, or as it was. */
  product(matrix: Matrix, x: Tensor, scope: Scope): Tensor {
    const weight = this.weights.get(matrix.name);
    if (!weight) return this.#original.product(matrix, x, scope);
    const y = productOf(weight, x, scope);
    if (matrix.bias) scope.backend.run(addBias, { b: this.vector(matrix.bias), y });
    return y;
  }

  *rowsOf(matrix: Matrix): Iterable<MatrixRows> {
    const weight = this.weights.get(matrix.name);
    if (!weight) return yield* this.#original.rowsOf(matrix);
    for (const { rows: { from }, quantized } of weight.slices) {
      const { dequantize } = schemeKind(quantized.scheme);
      yield { from, values: (scope) => dequantize(quantized, scope) };
    }
  }

  vector(name: string): Tensor {
    return this.vectors.get(name) ?? this.#original.vector(name);
  }

  replace(name: string, tensor: Tensor): void {
    this.vectors.set(name, tensor);
  }

  weight(name: string): QuantizedWeight {
    return this.weights.get(name)!;
  }
}
