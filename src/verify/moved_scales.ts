/**
 * Scales that a scaling method (AWQ, SmoothQuant) moved, found again in a checkpoint beside its
 * original: from a norm that differs, exactly; from a linear whose rows are smaller by what the
 * columns of the next are larger, by least squares.
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import { scaleColumns, upload } from "../linalg/channels.ts";
import type { Norm } from "../family.ts";
import { graphsOf, type Stage } from "../graph/block_graph.ts";
import type { Matrix } from "../graph/matrices.ts";
import { type Smoothing, smoothingOf } from "../graph/pairs.ts";
import { vectorsOf } from "../plan/smoothing.ts";
import type { Format, StoredWeight } from "../format.ts";
import { floatsFrom } from "../number.ts";
import { scaleRows } from "../ops/scale_rows.ts";
import { widened } from "../ops/widen.ts";
import { schemeKind } from "../schemes/mod.ts";
import { sliceOf } from "../plan/slices.ts";
import type { Reporter } from "../report.ts";
import type { Rows, TensorSource } from "../source.ts";
import type { Originals } from "./originals.ts";
import { matrixShape, type TensorInfo } from "../tensor.ts";

/** What the values of a stored weight were multiplied by, beside being quantized. */
export interface Moved {
  columns?: Float64Array;
  rows?: Float64Array;
}

/** What was found. */
export interface MovedScales {
  /** By weight. */
  readonly weights: ReadonlyMap<string, Moved>;
  /** Norms and biases that were divided. */
  readonly vectors: ReadonlySet<string>;
}

interface Pair {
  readonly output: TensorSource;
  readonly originals: Originals;
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
  const y = scaleColumns(widened(weight, scope), [
    Float32Array.from(columns ?? new Array(width).fill(1)),
  ], scope);
  if (factors) {
    const own = upload(Float32Array.from(factors).slice(rows.from, rows.to), scope);
    backend.run(scaleRows, { factor: own, y }, { scale_dtype: 0 });
  }
  return y;
}

/** Look for moved scales; none are found where the architecture is not known. */
export async function findMovedScales(
  pair: Pair,
  { report, signal }: { readonly report: Reporter; readonly signal: AbortSignal | undefined },
): Promise<MovedScales> {
  const weights = new Map<string, Moved>();
  const vectors = new Set<string>();
  const { originals: { model } } = pair;
  const graphs = model ? graphsOf(model) : [];
  for (const [i, graph] of graphs.entries()) {
    for (const stage of graph.stages) {
      signal?.throwIfAborted();
      const source = smoothingOf(graph, stage);
      const quantized = stage.matrices.every((matrix) => isQuantized(matrix, pair));
      if (!quantized || !source) continue;
      if (source.kind === "norm") {
        const columns = await normScales(source.norm, pair);
        if (!columns) continue;
        for (const name of vectorsOf(source)) vectors.add(name);
        for (const { name } of stage.matrices) weights.set(name, { columns });
      } else {
        await addRowScales(stage, source, { weights, vectors, pair });
      }
    }
    report({ type: "examined", block: graph.block.name, done: i + 1, total: graphs.length });
  }
  return { weights, vectors };
}

/** Whether a weight is stored as the values it was rounded to: a cast to the dtype that it had. */
export function isRounded(
  { scheme }: Pick<StoredWeight, "scheme">,
  original: Pick<TensorInfo, "dtype"> | undefined,
): boolean {
  return scheme.kind === "cast" && scheme.dtype === original?.dtype;
}

function isQuantized({ name, at }: Matrix, { stored, originals: { source } }: Pair): boolean {
  const found = stored.get(name);
  return found !== undefined &&
    (found.scheme.kind !== "cast" || isRounded(found, source.tensors.get(at.of)));
}

/**
 * By what a norm was divided; undefined when it was not, or when no positive scales make the one of
 * the other.
 */
async function normScales(
  { weight, plusOne }: Norm,
  pair: Pair,
): Promise<Float64Array | undefined> {
  const found = await vectorOf(weight, pair);
  if (!found) return undefined;
  const { before, after } = found;
  const plus = plusOne ? 1 : 0;
  if (before.every((value, i) => value === after[i])) return undefined;
  const scales = Float64Array.from(
    before,
    (value, i) => value === after[i] ? 1 : (value + plus) / (after[i]! + plus),
  );
  return scales.every((scale) => scale > 0 && scale < Infinity) ? scales : undefined;
}

/** The values of a norm or a bias in both checkpoints; undefined where they are not alike. */
async function vectorOf(
  name: string | undefined,
  { output, originals: { source } }: Pair,
): Promise<Readonly<Record<"before" | "after", Float32Array>> | undefined> {
  if (name === undefined) return undefined;
  const [a, b] = [source.tensors.get(name), output.tensors.get(name)];
  if (!a || a.dtype !== b?.dtype || String(a.shape) !== String(b.shape)) return undefined;
  const dtype = a.dtype as "f32" | "bf16" | "f16";
  return {
    before: floatsFrom(dtype, await source.read(name)),
    after: floatsFrom(dtype, await output.read(name)),
  };
}

/** Rows of a weight that were divided, and the columns of the next that were multiplied. */
async function addRowScales(
  { matrices: [to] }: Stage,
  source: Extract<Smoothing, { kind: "linear" }>,
  { weights, vectors, pair }: {
    readonly weights: Map<string, Moved>;
    readonly vectors: Set<string>;
    readonly pair: Pair;
  },
): Promise<void> {
  const { matrix: from } = source;
  if (!to || !isQuantized(from, pair)) return;
  const { rows } = await fitScales(from, weights.get(from.name), pair);
  const { columns } = await fitScales(to, undefined, pair);
  const channels = Map.groupBy(columns.keys(), (channel) => source.rows[channel]!);
  const made = [...channels.keys()];
  const divided = made.map((row) => Math.log(rows[row]!));
  const multiplied = made.map((row) => mean(channels.get(row)!.map((c) => Math.log(columns[c]!))));
  // A weight of zeros does not tell by what its columns were multiplied.
  const tells = multiplied.some((log) => log !== 0);
  const factors = new Float64Array(rows.length).fill(1);
  made.forEach((row, i) =>
    factors[row] = Math.exp(tells ? (divided[i]! - multiplied[i]!) / 2 : divided[i]!)
  );
  const bias = await vectorOf(from.bias, pair);
  if (bias && made.some((row) => bias.before[row] !== 0)) {
    // What a bias was divided by, it tells exactly.
    const ratio = (row: number) => bias.after[row]! / bias.before[row]!;
    const known = made.filter((row) => bias.before[row] !== 0);
    if (known.every((row) => ratio(row) === 1)) return;
    if (!known.every((row) => ratio(row) > 0 && ratio(row) < Infinity)) return;
    for (const row of known) factors[row] = ratio(row);
  } else if (tells && !(correlation(divided, multiplied) < -CORRELATION)) {
    return;
  }
  weights.set(from.name, { ...weights.get(from.name), rows: factors });
  weights.set(to.name, { columns: columns.map((_, c) => 1 / factors[source.rows[c]!]!) });
  for (const name of vectorsOf(source)) vectors.add(name);
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Pearson's coefficient; NaN where one side does not vary. */
function correlation(a: readonly number[], b: readonly number[]): number {
  const [x, y] = [a, b].map((values) => {
    const middle = mean(values);
    return values.map((value) => value - middle);
  });
  const dot = (p: readonly number[], q: readonly number[]) =>
    p.reduce((sum, value, i) => sum + value * q[i]!, 0);
  return dot(x!, y!) / Math.sqrt(dot(x!, x!) * dot(y!, y!));
}

/**
 * The factor of each row and of each column of a stored weight that brings the original's nearest
 * to it.
 */
async function fitScales(
  { name }: Matrix,
  moved: Moved | undefined,
  { output, originals, stored, format, backend }: Pair,
): Promise<{ readonly rows: Float64Array; readonly columns: Float64Array }> {
  const weight = stored.get(name)!;
  const original = originals.weightOf(weight);
  const [height, width] = matrixShape(original.shape);
  const { sliceRows } = sliceOf(original, weight.scheme, format, backend);
  const factors = moved?.columns ?? new Float64Array(width).fill(1);
  const [row, column] = [pairs(height), pairs(width)];
  for (let from = 0; from < height; from += sliceRows) {
    const rows = { from, to: Math.min(height, from + sliceRows) };
    using scope = backend.scope();
    const quantized = await format.unpack(weight, output.read.bind(output), { scope, rows });
    const [bytes] = await backend.read(schemeKind(weight.scheme).dequantize(quantized, scope));
    const found = new Float32Array(bytes!.buffer);
    const values = floatsFrom(original.dtype as "f32", await originals.read(original, rows));
    // Plain loops: all else that a verification does takes less time than closures here would.
    for (let r = rows.from, i = 0; r < rows.to; r++) {
      for (let c = 0; c < width; c++, i++) {
        const expected = values[i]! * factors[c]!;
        const product = found[i]! * expected;
        const power = expected * expected;
        row.cross[r]! += product;
        row.square[r]! += power;
        column.cross[c]! += product;
        column.square[c]! += power;
      }
    }
  }
  const ratio = ({ cross, square }: ReturnType<typeof pairs>) =>
    cross.map((sum, i) => sum > 0 ? sum / square[i]! : 1);
  return { rows: ratio(row), columns: ratio(column) };
}

function pairs(count: number): { cross: Float64Array; square: Float64Array } {
  return { cross: new Float64Array(count), square: new Float64Array(count) };
}
