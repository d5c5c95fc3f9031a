/**
 * Scales that a scaling method (AWQ, SmoothQuant) moved, found again in a checkpoint beside its
 * original: from a norm that differs, exactly; from a linear whose rows are smaller by what the
 * columns of the next are larger, by least squares.
 */
import type { Backend, Scope, Tensor } from "./backend.ts";
import { scaleColumns, upload } from "./channels.ts";
import type { Step } from "./family.ts";
import type { Format, StoredWeight } from "./format.ts";
import { floatsFrom } from "./number.ts";
import { scaleRows } from "./ops/scale_rows.ts";
import { widen } from "./ops/widen.ts";
import { modelIfAny } from "./plan.ts";
import { schemeKind } from "./schemes/mod.ts";
import { sliceOf } from "./slices.ts";
import type { Rows, TensorSource } from "./source.ts";
import { matrixShape, type TensorInfo } from "./tensor.ts";

/** What the values of a stored weight were multiplied by, beside being quantized. */
export interface Moved {
  columns?: Float64Array;
  rows?: Float64Array;
}

/** What was found. */
export interface MovedScales {
  /** By weight. */
  readonly weights: ReadonlyMap<string, Moved>;
  /** Norms that were divided. */
  readonly norms: ReadonlySet<string>;
}

interface Pair {
  readonly output: TensorSource;
  readonly source: TensorSource;
  readonly stored: ReadonlyMap<string, StoredWeight>;
  readonly format: Format;
  readonly backend: Backend;
}

/**
 * How well the logarithms of a weight's row factors and of the next weight's column factors, which
 * undo them, must agree. Where no scale was moved both are noise of quantization, and do not.
 */
const CORRELATION = 0.7;

/**
 * Rows of an original weight, any float dtype [n, C], as they were to be rounded: with the scales
 * that were moved into them, f32 in `scope`.
 */
export function withScales(
  weight: Tensor,
  { columns, rows: factors }: Moved,
  { rows, scope }: { readonly rows: Rows; readonly scope: Scope },
): Tensor {
  const { backend } = scope;
  const [, width = 0] = weight.shape;
  let w = weight;
  if (w.dtype !== "f32") {
    w = scope.alloc("f32", weight.shape);
    backend.run(widen, { x: weight, y: w });
  }
  const y = scaleColumns(w, Float32Array.from(columns ?? new Array(width).fill(1)), scope);
  if (factors) {
    const own = upload(Float32Array.from(factors).slice(rows.from, rows.to), scope);
    backend.run(scaleRows, { factor: own, y }, { scale_dtype: 0 });
  }
  return y;
}

/** Look for moved scales; none are found where the architecture is not known. */
export async function findMovedScales(pair: Pair): Promise<MovedScales> {
  const weights = new Map<string, Moved>();
  const norms = new Set<string>();
  for (const step of modelIfAny(pair.source).model?.blocks.flatMap(({ steps }) => steps) ?? []) {
    const quantized = step.linears.every(({ weight }) => isQuantized(weight, pair));
    if (!quantized || !step.scaledBy) continue;
    if (step.scaledBy.kind === "norm") {
      const columns = await normScales(step.scaledBy.weight, pair);
      if (!columns) continue;
      norms.add(step.scaledBy.weight);
      for (const { weight } of step.linears) weights.set(weight, { columns });
    } else {
      await addRowScales(step, weights, pair);
    }
  }
  return { weights, norms };
}

/** Whether a weight is stored as the values it was rounded to: a cast to the dtype that it had. */
export function isRounded(
  { scheme }: Pick<StoredWeight, "scheme">,
  original: Pick<TensorInfo, "dtype"> | undefined,
): boolean {
  return scheme.kind === "cast" && scheme.dtype === original?.dtype;
}

function isQuantized(weight: string, { stored, source }: Pair): boolean {
  const found = stored.get(weight);
  return found !== undefined &&
    (found.scheme.kind !== "cast" || isRounded(found, source.tensors.get(weight)));
}

/**
 * By what a norm was divided; undefined when it was not, or when no positive scales make the one of
 * the other.
 */
async function normScales(
  name: string,
  { output, source }: Pair,
): Promise<Float64Array | undefined> {
  const [a, b] = [source.tensors.get(name), output.tensors.get(name)];
  if (!a || a.dtype !== b?.dtype || String(a.shape) !== String(b.shape)) return undefined;
  const dtype = a.dtype as "f32" | "bf16" | "f16";
  const before = floatsFrom(dtype, await source.read(name));
  const after = floatsFrom(dtype, await output.read(name));
  if (before.every((value, i) => value === after[i])) return undefined;
  const scales = Float64Array.from(
    before,
    (value, i) => value === after[i] ? 1 : value / after[i]!,
  );
  return scales.every((scale) => scale > 0 && scale < Infinity) ? scales : undefined;
}

/** Rows of a weight that were divided, and the columns of the next that were multiplied. */
async function addRowScales(
  { linears, scaledBy }: Step,
  weights: Map<string, Moved>,
  pair: Pair,
): Promise<void> {
  if (scaledBy?.kind !== "linear" || !isQuantized(scaledBy.linear.weight, pair)) return;
  const [from, to] = [scaledBy.linear.weight, linears[0]!.weight];
  const { rows } = await fitScales(from, weights.get(from), pair);
  const { columns } = await fitScales(to, undefined, pair);
  const channels = Map.groupBy(columns.keys(), (channel) => scaledBy.rows[channel]!);
  const made = [...channels.keys()];
  const divided = made.map((row) => Math.log(rows[row]!));
  const multiplied = made.map((row) => mean(channels.get(row)!.map((c) => Math.log(columns[c]!))));
  // A weight of zeros does not tell by what its columns were multiplied.
  const tells = multiplied.some((log) => log !== 0);
  if (tells && !(correlation(divided, multiplied) < -CORRELATION)) return;
  const factors = new Float64Array(rows.length).fill(1);
  made.forEach((row, i) =>
    factors[row] = Math.exp(tells ? (divided[i]! - multiplied[i]!) / 2 : divided[i]!)
  );
  weights.set(from, { ...weights.get(from), rows: factors });
  weights.set(to, { columns: columns.map((_, c) => 1 / factors[scaledBy.rows[c]!]!) });
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Pearson's coefficient; NaN where one side does not vary. */
function correlation(a: readonly number[], b: readonly number[]): number {
  const [x, y] = [a, b].map((values) => values.map((value) => value - mean(values)));
  const dot = (p: readonly number[], q: readonly number[]) =>
    p.reduce((sum, value, i) => sum + value * q[i]!, 0);
  return dot(x!, y!) / Math.sqrt(dot(x!, x!) * dot(y!, y!));
}

/**
 * The factor of each row and of each column of a stored weight that brings the original's nearest
 * to it.
 */
async function fitScales(
  name: string,
  moved: Moved | undefined,
  { output, source, stored, format, backend }: Pair,
): Promise<{ readonly rows: Float64Array; readonly columns: Float64Array }> {
  const weight = stored.get(name)!;
  const original = source.tensors.get(name)!;
  const [height, width] = matrixShape(original.shape);
  const { sliceRows } = sliceOf(original, weight.scheme, format, backend);
  const sums = { row: pairs(height), column: pairs(width) };
  for (let from = 0; from < height; from += sliceRows) {
    const rows = { from, to: Math.min(height, from + sliceRows) };
    using scope = backend.scope();
    const quantized = await format.unpack(weight, output.read.bind(output), { scope, rows });
    const [bytes] = await backend.read(schemeKind(weight.scheme).dequantize(quantized, scope));
    const found = new Float32Array(bytes!.buffer);
    const values = floatsFrom(original.dtype as "f32", await source.read(name, rows));
    values.forEach((value, i) => {
      const [r, c] = [from + Math.floor(i / width), i % width];
      const expected = value * (moved?.columns?.[c] ?? 1);
      for (const [{ cross, square }, at] of [[sums.row, r], [sums.column, c]] as const) {
        cross[at]! += found[i]! * expected;
        square[at]! += expected * expected;
      }
    });
  }
  const ratio = ({ cross, square }: ReturnType<typeof pairs>) =>
    cross.map((sum, i) => sum > 0 ? sum / square[i]! : 1);
  return { rows: ratio(sums.row), columns: ratio(sums.column) };
}

function pairs(count: number): { cross: Float64Array; square: Float64Array } {
  return { cross: new Float64Array(count), square: new Float64Array(count) };
}
