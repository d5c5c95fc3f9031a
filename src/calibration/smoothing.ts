/**
 * Scales moved out of a stage's input: what makes it is divided by them, exactly. A scale is what
 * rounding to the dtype of what is divided makes of it, so that the weights are multiplied by just
 * what the input lost.
 */
import type { Scope, Tensor } from "../backend.ts";
import type { Norm } from "../family.ts";
import type { Smoothing } from "../graph/pairs.ts";
import { upload, uploadParts } from "../linalg/channels.ts";
import { bytesFrom, floatsFrom, roundTo } from "../number.ts";
import { schemeKind } from "../schemes/mod.ts";
import type { FloatDType } from "../tensor.ts";
import type { QuantizedWeight } from "./quantized_weight.ts";

/** What of a block smoothing changes. */
export interface Smoothable {
  /** A norm's weight or a bias as it is by now. */
  vector(name: string): Tensor;
  /** Put another in its place. */
  replace(name: string, tensor: Tensor): void;
  /** A weight whose codes were chosen before. */
  weight(name: string): QuantizedWeight;
}

/** What was moved. */
export interface MovedScales {
  /** f32[C]: what the columns of the stage's weights are to be multiplied by. */
  readonly scales: Float32Array<ArrayBuffer>;
  /**
   * f32[1, C]: by what the input that windows stand at is to be multiplied, where it was made
   * before its scales were moved.
   */
  readonly inputFactor: Tensor | undefined;
}

/** Divide what makes a stage's input by scales, f32[C]; what is new is in `scope`. */
export async function moveScales(
  source: Smoothing,
  scales: Float32Array<ArrayBuffer>,
  { block, scope }: { readonly block: Smoothable; readonly scope: Scope },
): Promise<MovedScales> {
  if (source.kind === "norm") {
    return {
      scales: await divideNorm(source.norm, scales, { block, scope }),
      inputFactor: undefined,
    };
  }
  const { matrix, rows } = source;
  const factors = new Float32Array(matrix.rows).fill(1);
  rows.forEach((row, channel) => factors[row] = 1 / scales[channel]!);
  await divideRows(block.weight(matrix.name), factors, scope);
  if (matrix.bias !== undefined) {
    await change(matrix.bias, { block, scope }, (value, row) => value * factors[row]!);
  }
  const inputFactor = Float32Array.from(rows, (row) => factors[row]!);
  return {
    scales: inputFactor.map((factor) => 1 / factor),
    inputFactor: uploadParts([inputFactor], scope),
  };
}

/**
 * Multiply rows of a weight whose codes were chosen; `factors` become what rows were in fact
 * multiplied by, where that is known.
 */
async function divideRows(
  weight: QuantizedWeight,
  factors: Float32Array<ArrayBuffer>,
  scope: Scope,
): Promise<void> {
  const { backend } = scope;
  using scratch = backend.scope();
  weight.rowFactors = factors;
  for (const { rows: { from, to }, quantized } of weight.slices) {
    const factor = upload(factors.subarray(from, to), scratch);
    const { scale } = quantized.tensors;
    const single = scale?.shape[1] === 1 ? scale : undefined;
    const before = single && floatsFrom("f32", (await backend.read(single))[0]!);
    schemeKind(quantized.scheme).choice!.scaleRows(quantized, factor, scope);
    if (!single || !before) continue;
    // Scales are rounded to their dtype. Where a row has but one, what the row was in fact
    // multiplied by is known, and moving it is exact.
    const after = floatsFrom("f32", (await backend.read(single))[0]!);
    factors.set(after.map((value, i) => value / before[i]!), from);
  }
}

/**
 * Divide a norm by scales; those that were in fact moved. Where rounding leaves nothing, a channel
 * stays as it was.
 */
async function divideNorm(
  { weight, bias, plusOne }: Norm,
  scales: Float32Array,
  around: { readonly block: Smoothable; readonly scope: Scope },
): Promise<Float32Array<ArrayBuffer>> {
  const plus = plusOne ? 1 : 0;
  const moved = new Float32Array(scales.length).fill(1);
  await change(weight!, around, (value, c, round) => {
    const divided = round((value + plus) / scales[c]! - plus);
    const scale = Math.fround((value + plus) / (divided + plus));
    if (!(scale > 0 && scale < Infinity)) return value;
    moved[c] = scale;
    return divided;
  });
  if (bias !== undefined) await change(bias, around, (value, c) => value / moved[c]!);
  return moved;
}

/** Change the elements of a norm's weight or of a bias, in its own dtype. */
async function change(
  name: string,
  { block, scope }: { readonly block: Smoothable; readonly scope: Scope },
  to: (value: number, i: number, round: (value: number) => number) => number,
): Promise<void> {
  const before = block.vector(name);
  const dtype = before.dtype as FloatDType;
  const [bytes] = await scope.backend.read(before);
  const round = (value: number) => roundTo(dtype, value);
  const after = floatsFrom(dtype, bytes!).map((value, i) => round(to(value, i, round)));
  const tensor = scope.alloc(dtype, before.shape);
  scope.backend.write(tensor, bytesFrom(dtype, after));
  block.replace(name, tensor);
}
