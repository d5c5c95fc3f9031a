/**
 * What is measured of a calibrated weight while the statistics of its input are at hand: how much
 * of its output is lost, and how GPTQ's loss compares with what could be told before. Everything is
 * queued, slice by slice, and read in the end with whatever else is read.
 *
 * Relative output error: tr(E·H·Eᵀ) / tr(W·H·Wᵀ) with E = Ŵ − W against the checkpoint's weight
 * (scales that were moved taken out) and H the Gram matrix of the input in the quantized model.
 *
 * A-priori numbers, of int grids: a column's error e = (w − q)/U_ii costs e²/2, and |w − q| ≤ s/2
 * where nothing is clipped, so a row's loss is at most Σ_g s_g²/8·Σ_{i∈g} 1/U_ii²; for errors that
 * are spread evenly a third of it is expected, Σ_g s_g²/24·Σ_{i∈g} 1/U_ii².
 */
import type { Scope, Tensor } from "../backend.ts";
import type { Statistics } from "../observer.ts";
import type { Gram } from "../linalg/panels.ts";
import { gram } from "../observers/gram.ts";
import { rowDots } from "../ops/row_dots.ts";
import { difference } from "../ops/subtract.ts";
import { multiplyByPanels } from "../linalg/panels.ts";
import { Pace } from "../pace.ts";
import type { CalibrationFacts } from "../report.ts";
import { type Quantized, tileOf } from "../scheme.ts";

/** Measures one weight. */
export class CalibrationMeasure {
  readonly #scope: Scope;
  readonly #tokens: number;
  /** Undefined when the method that was used asked for none. */
  readonly #gram: Gram | undefined;
  readonly #importance: Tensor | undefined;
  readonly #moved: Float32Array | undefined;
  readonly #dots: Tensor[] = [];
  readonly #scales: { readonly tensor: Tensor; readonly quantized: Quantized }[] = [];

  /**
   * @param options.scope What is queued lives in it until it is read.
   * @param options.importance f32[1, C]: 1/U_ii² by column, if GPTQ did the rounding.
   * @param options.scales f32[C]: by which the columns were multiplied before.
   */
  constructor(
    { scope, statistics, importance, scales }: {
      readonly scope: Scope;
      readonly statistics: Statistics;
      readonly importance?: Tensor | undefined;
      readonly scales?: Float32Array | undefined;
    },
  ) {
    this.#scope = scope;
    this.#tokens = statistics.tokens;
    this.#gram = statistics.has(gram) ? statistics.of(gram) : undefined;
    this.#importance = importance;
    this.#moved = scales;
  }

  /**
   * Take in a slice whose codes were chosen: the checkpoint's rows and what the codes stand for,
   * f32[n, C] each.
   */
  async add(
    quantized: Quantized,
    { original, values, scope, signal }: {
      readonly original: (scope: Scope) => Tensor;
      readonly values: (scope: Scope) => Tensor;
      readonly scope: Scope;
      readonly signal?: AbortSignal | undefined;
    },
  ): Promise<void> {
    const { scale } = quantized.tensors;
    if (this.#importance && quantized.scheme.kind === "int" && scale) {
      this.#scales.push({ tensor: scale, quantized });
    }
    if (!this.#gram) return;
    const { backend } = scope;
    using scratch = backend.scope();
    const w = original(scratch);
    const through = scratch.alloc("f32", w.shape);
    const pace = new Pace(backend, signal);
    const dot = async (a: Tensor) => {
      await multiplyByPanels(a, this.#gram!, through, { backend, pace });
      const y = this.#scope.alloc("f32", [w.shape[0]!]);
      backend.run(rowDots, { a, b: through, y });
      this.#dots.push(y);
    };
    await dot(w);
    await dot(difference(values(scratch), w, scratch));
  }

  /** What is to be read, for {@linkcode finish}. */
  get tensors(): readonly Tensor[] {
    const scales = this.#scales.map(({ tensor }) => tensor);
    return [...this.#dots, ...scales.length > 0 ? [this.#importance!, ...scales] : []];
  }

  /** The numbers, from the bytes of {@linkcode tensors}. */
  finish(
    read: readonly Uint8Array<ArrayBuffer>[],
  ): Pick<CalibrationFacts, "outputError" | "expectedLoss" | "lossBound"> {
    const arrays = read.map((bytes) => new Float32Array(bytes.buffer));
    const sums = arrays.splice(0, this.#dots.length).map((dots) => dots.reduce((a, b) => a + b, 0));
    const total = (first: number) => sums.reduce((sum, x, i) => i % 2 === first ? sum + x : sum, 0);
    const [plain, ...scales] = arrays;
    // An error of a column that was multiplied is that much smaller in the weight itself.
    const importance = plain?.map((weight, c) => weight / (this.#moved?.[c] ?? 1) ** 2);
    const squares = scales.reduce(
      (sum, scale, i) => sum + weighScales(this.#scales[i]!.quantized, scale, importance!),
      0,
    ) / this.#tokens;
    return {
      // An output that was always 0 cannot be lost.
      ...(sums.length > 0 ? { outputError: total(0) > 0 ? total(1) / total(0) : 0 } : {}),
      ...(scales.length > 0 ? { expectedLoss: squares / 24, lossBound: squares / 8 } : {}),
    };
  }
}

/** Σ over rows and tiles of s²·Σ 1/U_ii² over the tile's columns; `scale` is f32[A, B]. */
export function weighScales(
  { scheme, rows, columns }: Pick<Quantized, "scheme" | "rows" | "columns">,
  scale: Float32Array,
  importance: Float32Array,
): number {
  if (!("strategy" in scheme)) return 0;
  const [tileRows, tileColumns] = tileOf(scheme.strategy, [rows, columns]);
  const across = Math.ceil(columns / tileColumns);
  const weights = new Float64Array(across);
  importance.forEach((weight, column) => weights[Math.floor(column / tileColumns)]! += weight);
  let sum = 0;
  scale.forEach((s, tile) => {
    const first = Math.floor(tile / across) * tileRows;
    sum += Math.min(tileRows, rows - first) * s * s * weights[tile % across]!;
  });
  return sum;
}
