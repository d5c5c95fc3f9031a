/**
 * How a weight is cut into slices of rows: what scales and packing allow, what the device likes and
 * can bind.
 */
import { UnsupportedError } from "../errors.ts";
import type { Format, StoredWeight } from "../format.ts";
import type { DeviceLimits } from "../backend.ts";
import type { Scheme } from "../scheme.ts";
import { schemeKind } from "../schemes/mod.ts";
import { size } from "../size.ts";
import { BITS, matrixShape, type TensorInfo } from "../tensor.ts";
import type { QuantizeTask } from "./tasks.ts";

/** The least number that both divide. */
export function leastCommonMultiple(a: number, b: number): number {
  let [x, y] = [a, b];
  while (y !== 0) [x, y] = [y, x % y];
  return a / x * b;
}

/** Rows that a slice of a weight must be a multiple of, or all rows. */
export function rowStep(
  { name, shape, scheme }: Pick<StoredWeight, "name" | "shape" | "scheme">,
  format: Format,
  [rows, columns]: readonly [number, number],
): number {
  const scale = schemeKind(scheme).rowStep(scheme, [rows, columns]);
  return Math.min(
    rows,
    leastCommonMultiple(scale, format.rowStep(scheme, { name, shape, dtype: "f32" })),
  );
}

/**
 * Rows of a slice: about what the device likes, a multiple of what scheme and format need, never
 * over what it can bind.
 */
export function sliceOf(
  tensor: TensorInfo,
  scheme: Scheme,
  format: Format,
  device: DeviceLimits,
): Pick<QuantizeTask, "sliceRows" | "rowStep"> {
  const [rows, columns] = matrixShape(tensor.shape);
  const step = rowStep({ ...tensor, scheme }, format, [rows, columns]);
  // The widest thing made of a slice is its dequantized f32 form, when it is measured.
  const largest = Math.floor(device.maxTensorBytes / (columns * 4));
  if (step > largest) {
    const reason = `${step} of its rows must be quantized together, ${
      size(step * columns * 4)
    } as float32, and ${device.name} binds at most ${size(device.maxTensorBytes)}`;
    throw new UnsupportedError(
      `Cannot quantize "${tensor.name}": ${reason}. Use a scale per channel or group.`,
      { what: tensor.name, reason },
    );
  }
  const liked = Math.max(1, Math.floor(device.sliceBytes / (columns * BITS[tensor.dtype] / 8)));
  const most = Math.floor(Math.min(liked, largest) / step) * step;
  return { sliceRows: Math.min(rows, Math.max(step, most)), rowStep: step };
}
