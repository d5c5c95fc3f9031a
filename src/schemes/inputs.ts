/** Linears' inputs as a runtime rounds them: what schemes share. */
import type { Scope, Tensor } from "../backend.ts";
import { type InputGrid, largestOf, rangeByError, rangeByPercentile } from "./input_range.ts";
import { E4M3_MAX, e4m3ToF32, roundTo } from "../number.ts";
import type { Observer, Statistics } from "../observer.ts";
import { histogram } from "../observers/histogram.ts";
import { minMax } from "../observers/min_max.ts";
import { movingAverage } from "../observers/moving_average.ts";
import { fakeQuantize } from "../ops/fake_quantize.ts";
import { fakeQuantizeRows } from "../ops/fake_quantize_rows.ts";
import { matmulNt } from "../ops/matmul_nt.ts";
import type { OptionValues } from "../option.ts";
import {
  type Activations,
  activationsOf,
  type Fp8Scheme,
  type InputScale,
  type IntScheme,
  type Quantized,
  type Scheme,
} from "../scheme.ts";
import { matrixShape, type Shape } from "../tensor.ts";

/** A way to find the range that a fixed scale covers. */
interface RangeFinder {
  readonly observer: Observer;
  range(seen: Statistics, grid: InputGrid, options: OptionValues): number;
}

/** What `--percentile` is when it is not given. */
export const PERCENTILE = 99.99;

/**
 * The ways to find a range, by the names that `--observer` takes; PyTorch has the first two and one
 * like the third.
 */
const FINDERS: Readonly<Record<string, RangeFinder>> = {
  "min-max": { observer: minMax, range: (seen) => largestOf(seen.of(minMax)) },
  "moving-average": { observer: movingAverage, range: (seen) => largestOf(seen.of(movingAverage)) },
  mse: { observer: histogram, range: (seen, grid) => rangeByError(seen.of(histogram), grid) },
  percentile: {
    observer: histogram,
    range: (seen, _grid, options) =>
      rangeByPercentile(seen.of(histogram), Number(options.percentile ?? PERCENTILE)),
  },
};

/** The names of the ways to find a range. */
export const RANGE_FINDERS: readonly string[] = Object.keys(FINDERS);

/** The one that is taken when `--observer` does not say. */
export const USUAL_FINDER = "mse";

function finderOf(options: OptionValues): RangeFinder {
  const finder = FINDERS[String(options.observer ?? USUAL_FINDER)];
  if (finder) return finder;
  throw new RangeError(
    `Cannot find ranges by "${options.observer}": it must be ${RANGE_FINDERS.join(", ")}`,
  );
}

/**
 * What input values become: int8 as compressed-tensors has it, scale = range/127.5 and codes −128 …
 * 127; E4M3, range/448.
 */
const GRIDS = {
  "int8-static": { levels: Float64Array.from({ length: 256 }, (_, i) => i - 128), steps: 127.5 },
  "fp8-static": {
    levels: Float64Array.from(new Set(Array.from({ length: 256 }, (_, code) => e4m3ToF32(code))))
      .filter((level) => !Number.isNaN(level)).sort(),
    steps: E4M3_MAX,
  },
} satisfies Partial<Record<Activations, InputGrid>>;

/** How int and fp8 schemes with static activations find the scale of their input. */
export const inputScale: InputScale<IntScheme | Fp8Scheme> = {
  observer: ({ activations }, options) =>
    activations in GRIDS ? finderOf(options).observer : undefined,
  find({ activations, scaleDType }, statistics, options) {
    const grid = GRIDS[activations as keyof typeof GRIDS];
    const range = finderOf(options).range(statistics, grid, options);
    if (range === 0) return 1;
    const smallest = scaleDType === "f16" ? 2 ** -14 : 2 ** -126;
    return Math.max(smallest, roundTo(scaleDType, Math.fround(range / grid.steps)));
  },
};

/**
 * A linear's input as the runtime rounds it, f32[T, C] in `scope`; itself where it is not rounded.
 */
export function roundInput(
  x: Tensor,
  { scheme, tensors }: Quantized,
  scope: Scope,
): Tensor {
  const activations = activationsOf(scheme);
  if (activations === "none") return x;
  const y = scope.alloc("f32", x.shape);
  const kind = activations.startsWith("int8") ? 0 : 1;
  if (activations in GRIDS) {
    const scale = tensors.input_scale;
    if (!scale) throw new RangeError("Cannot round a linear's input: its fixed scale is missing");
    scope.backend.run(fakeQuantize, { x, scale, y }, { kind, bits: 8 });
  } else {
    // As compressed-tensors and vLLM do for dynamic per-token activations: scale = absmax/127.5 or
    // absmax/448.
    scope.backend.run(fakeQuantizeRows, { x, y }, { kind, bits: 8 });
  }
  return y;
}

/**
 * y[:, column … column+R) = a linear's input, rounded as its runtime does, times what its codes
 * stand for, f32[R, C].
 */
export function multiplyValues(
  quantized: Quantized,
  x: Tensor,
  y: Tensor,
  { dequantize, scope, column }: {
    readonly dequantize: (quantized: Quantized, scope: Scope) => Tensor;
    readonly scope: Scope;
    readonly column: number;
  },
): void {
  using scratch = scope.backend.scope();
  const input = roundInput(x, quantized, scratch);
  scope.backend.run(matmulNt, { x: input, w: dequantize(quantized, scratch), y }, { column });
}

/** Bytes of the device for the rounded input of a linear whose weight is [R, C]. */
export function inputBytes(scheme: Scheme, shape: Shape, tokens: number): number {
  const [, columns] = matrixShape(shape);
  return activationsOf(scheme) === "none" ? 0 : tokens * columns * 4;
}

/** As a person would say it. */
export function activationsLabel(activations: Activations): string {
  if (activations === "none") return "";
  const [values, how] = activations.split("-");
  return how ? `, ${values} activations, ${how}` : `, ${values} activations`;
}
