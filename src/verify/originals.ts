/** The checkpoint that another was made of, its weights as they were quantized. */
import { CheckpointError, quote } from "../errors.ts";
import type { Model, View } from "../family.ts";
import type { StoredWeight, WeightInfo } from "../format.ts";
import { graphsOf } from "../graph/block_graph.ts";
import { matrixInfo, matrixReader, type ReadMatrix } from "../graph/matrix_reader.ts";
import { modelIfAny } from "../plan/model.ts";
import type { Rows, TensorSource } from "../source.ts";

/** See the head of this file. */
export class Originals {
  readonly source: TensorSource;
  /** Where it is known. */
  readonly model: Model | undefined;
  readonly readMatrix: ReadMatrix;
  /** How weights of linears lie in their tensors. */
  readonly #places: ReadonlyMap<string, Omit<View, "rows">>;

  /** @throws {CheckpointError} the config has a value that a model cannot have. */
  constructor(source: TensorSource) {
    this.source = source;
    this.model = modelIfAny(source).model;
    this.readMatrix = matrixReader(
      (name, rows) => source.read(name, rows),
      (name) => source.tensors.get(name)!,
    );
    const matrices = this.model ? graphsOf(this.model).flatMap(({ matrices }) => matrices) : [];
    this.#places = new Map(matrices.map(({ name, at }) => [name, at]));
  }

  /**
   * What a stored weight was: its cast or rounded tensor, or the matrix that was quantized.
   *
   * @throws {CheckpointError} the source has no such weight, or one of another shape.
   */
  weightOf({ name, shape, transposed, scheme }: StoredWeight): WeightInfo {
    const tensor = this.source.tensors.get(name);
    const at = this.#placeOf(name);
    const turned = at.transposed && (scheme.kind !== "cast" || transposed);
    const weight: WeightInfo | undefined = tensor && turned
      ? { ...matrixInfo(at, tensor), transposed: true }
      : tensor;
    if (weight?.shape.join() === shape.join()) return weight;
    throw new CheckpointError(
      `Cannot verify "${name}": it is stored with shape [${shape.join(", ")}], and ` +
        `${quote(this.source.label)} has ${
          weight ? `[${weight.shape.join(", ")}]` : "no such tensor"
        }.`,
      { tensor: name },
    );
  }

  /** Rows of a weight, in its own dtype. */
  read({ name, transposed }: WeightInfo, rows: Rows): Promise<Uint8Array<ArrayBuffer>> {
    return transposed ? this.readMatrix(this.#placeOf(name), rows) : this.source.read(name, rows);
  }

  #placeOf(name: string): Omit<View, "rows"> {
    return this.#places.get(name) ?? { of: name };
  }
}
