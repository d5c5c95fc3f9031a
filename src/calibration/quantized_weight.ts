/**
 * A weight whose codes were chosen, in slices of its rows on the device, until its block is packed.
 */
import type { Scope, Tensor } from "../backend.ts";
import { scaleColumns, upload } from "../linalg/channels.ts";
import { scaleRows } from "../ops/mod.ts";
import type { QuantizeTask } from "../plan/tasks.ts";
import type { CalibrationFacts } from "../report.ts";
import type { Quantized } from "../scheme.ts";
import { schemeKind } from "../schemes/mod.ts";
import type { Rows } from "../source.ts";

/** Some rows of a weight. */
export interface QuantizedSlice {
  readonly rows: Rows;
  readonly quantized: Quantized;
}

/** See the head of this file. */
export interface QuantizedWeight {
  readonly task: QuantizeTask;
  readonly slices: readonly QuantizedSlice[];
  /** What its columns were multiplied by; absent: nothing. */
  readonly scales: Float32Array | undefined;
  /** What its rows were multiplied by later; absent: nothing. */
  rowFactors?: Float32Array<ArrayBuffer> | undefined;
  facts: CalibrationFacts;
}

/** x·Wᵀ as the runtime computes it: f32[T, R] in `scope`. */
export function productOf(
  { task, slices }: Pick<QuantizedWeight, "task" | "slices">,
  x: Tensor,
  scope: Scope,
): Tensor {
  const [rows = 0] = task.weight.shape;
  const y = scope.alloc("f32", [x.shape[0]!, rows]);
  for (const { rows: { from }, quantized } of slices) {
    using scratch = scope.backend.scope();
    schemeKind(quantized.scheme).linear(quantized, x, y, { scope: scratch, column: from });
  }
  return y;
}

/**
 * The values of a slice of a weight without the scales that were moved into it: f32[n, C] in
 * `scope`.
 */
export function unscaled(
  { scales, rowFactors }: Pick<QuantizedWeight, "scales" | "rowFactors">,
  { rows: { from, to }, quantized }: QuantizedSlice,
  scope: Scope,
): Tensor {
  const { backend } = scope;
  let values = schemeKind(quantized.scheme).dequantize(quantized, scope);
  if (scales) values = scaleColumns(values, [scales.map((scale) => 1 / scale)], scope);
  if (rowFactors) {
    const own = rowFactors.subarray(from, to).map((factor) => 1 / factor);
    backend.run(scaleRows, { factor: upload(own, scope), y: values }, { scale_dtype: 0 });
  }
  return values;
}
