/** One stored weight: laid out as its format says, finite, and near the original's values. */
import type { Backend } from "../backend.ts";
import { unscaled } from "../calibration/quantized_weight.ts";
import { CheckpointError } from "../errors.ts";
import type { Format, StoredWeight, WeightInfo } from "../format.ts";
import { keepWhole } from "../formats/whole_reads.ts";
import type { ErrorSums } from "../metric.ts";
import { ErrorGatherer, METRICS } from "../metrics/mod.ts";
import type { DeviceDType } from "../op.ts";
import { sliceOf } from "../plan/slices.ts";
import type { TensorReport } from "../report.ts";
import type { Quantized } from "../scheme.ts";
import { schemeKind } from "../schemes/mod.ts";
import type { TensorSource } from "../source.ts";
import { byteLength, elementCount, matrixShape, type TensorInfo } from "../tensor.ts";
import { isRounded, type Moved, withScales } from "./moved_scales.ts";
import type { Originals } from "./originals.ts";

/** The parts must be exactly those that the format lays out for this weight. */
export function checkLayout(weight: StoredWeight, original: WeightInfo, format: Format): void {
  const show = (tensors: readonly TensorInfo[]) =>
    tensors.map(({ name, dtype, shape }) => `${name} ${dtype}[${shape.join(", ")}]`).sort().join(
      "; ",
    );
  const expected = show(format.layout(original, weight.scheme));
  const found = show(weight.parts);
  if (expected === found) return;
  throw new CheckpointError(
    `Cannot verify "${weight.name}": it is stored as ${found}; ${format.name} lays out ${expected}.`,
    { tensor: weight.name },
  );
}

/** What a weight is checked against. */
export interface Check {
  readonly backend: Backend;
  readonly output: TensorSource;
  /** Absent: its values are only checked to be finite. */
  readonly originals: Originals | undefined;
  readonly moved: Moved | undefined;
  readonly format: Format;
  readonly signal: AbortSignal | undefined;
}

/**
 * Unpack one weight slice by slice; its scales must be finite, and its values near the source's.
 */
export async function checkWeight(weight: StoredWeight, check: Check): Promise<TensorReport> {
  const { backend, originals, signal, output, format, moved } = check;
  const original = originals?.weightOf(weight);
  const [rows, columns] = matrixShape(weight.shape);
  const info: WeightInfo = original ?? { name: weight.name, dtype: "f32", shape: weight.shape };
  const { sliceRows } = sliceOf(info, weight.scheme, format, backend);
  using errors = originals ? new ErrorGatherer(backend) : undefined;
  using distance = originals && moved ? new ErrorGatherer(backend) : undefined;
  const read = format.gathers ? keepWhole(output.read.bind(output)) : output.read.bind(output);
  for (let from = 0; from < rows; from += sliceRows) {
    signal?.throwIfAborted();
    const slice = { from, to: Math.min(rows, from + sliceRows) };
    using scope = backend.scope();
    const quantized = await format.unpack(weight, read, { scope, rows: slice });
    await checkNumbers(quantized, weight.name, backend);
    if (!originals || !errors) continue;
    const factors = {
      scales: moved?.columns && Float32Array.from(moved.columns),
      rowFactors: moved?.rows && Float32Array.from(moved.rows),
    };
    const values = unscaled(factors, { rows: slice, quantized }, scope);
    const tensor = scope.alloc(info.dtype as DeviceDType, [slice.to - from, columns]);
    backend.write(tensor, await originals.read(info, slice));
    await errors.add(tensor, values);
    await distance?.add(
      withScales(tensor, moved!, { rows: slice, scope }),
      schemeKind(quantized.scheme).dequantize(quantized, scope),
    );
  }
  const sums = errors?.sums();
  // Channels that are hardly used may have scales so small that without them an error looks large;
  // it was made with them.
  if (sums) checkDistance(distance?.sums() ?? sums, weight.name);
  const stored = weight.parts.reduce((n, part) => n + byteLength(part), 0);
  return {
    name: weight.name,
    scheme: isRounded(weight, original)
      ? `rounded values in ${original!.dtype}`
      : schemeKind(weight.scheme).label(weight.scheme),
    bitsPerWeight: stored * 8 / elementCount(weight.shape),
    metrics: sums
      ? Object.fromEntries(METRICS.map((metric) => [metric.name, metric.compute(sums)]))
      : {},
  };
}

/**
 * Scales that are not finite, or fp8 codes that are NaN, poison every value they touch; levels of a
 * codebook that do not ascend are none that a writer leaves.
 */
async function checkNumbers(quantized: Quantized, name: string, backend: Backend): Promise<void> {
  const { scale, absmax, table, codes, input_scale: input } = quantized.tensors;
  const scales = [scale ?? absmax ?? table, input].filter((tensor) => tensor !== undefined);
  if (scales.length === 0) return;
  const fp8 = quantized.scheme.kind === "fp8" && codes ? [codes] : [];
  const bytes = await backend.read(...scales, ...fp8);
  const bad = bytes.slice(0, scales.length)
    .flatMap(({ buffer }) =>
      new Float32Array(buffer).find((value) => !Number.isFinite(value)) ?? []
    )
    .at(0);
  const codeBytes = bytes[scales.length];
  if (bad !== undefined) {
    throw new CheckpointError(`Cannot accept "${name}": one of its scales is ${bad}.`, {
      tensor: name,
    });
  }
  const range = input && new Float32Array(bytes[scales.indexOf(input)]!.buffer)[0]!;
  if (range !== undefined && range <= 0) {
    throw new CheckpointError(`Cannot accept "${name}": the scale of its input is ${range}.`, {
      tensor: name,
    });
  }
  const levels = table?.shape[1] ?? 0;
  const tables = table && new Float32Array(bytes[scales.indexOf(table)]!.buffer);
  const falling = tables?.findIndex((level, i) => i % levels > 0 && level < tables[i - 1]!) ?? -1;
  if (falling >= 0) {
    throw new CheckpointError(
      `Cannot accept "${name}": the levels of its codebook do not ascend, ${
        tables![falling]
      } comes ` +
        `after ${tables![falling - 1]}.`,
      { tensor: name },
    );
  }
  if (codeBytes?.some((code) => (code & 0x7f) === 0x7f)) {
    throw new CheckpointError(`Cannot accept "${name}": one of its fp8 values is NaN.`, {
      tensor: name,
    });
  }
}

/**
 * Every scheme holds zero, so rounding moves no weight further than zero would: more noise than
 * signal is damage. But calibration may have a weight of zeros make up for errors before it.
 */
function checkDistance({ noise, signal }: ErrorSums, name: string): void {
  if (noise <= signal || signal === 0) return;
  throw new CheckpointError(
    `Cannot accept "${name}": its values are further from the source's than zeros would be ` +
      `(squared error ${noise.toPrecision(4)}, squared weights ${signal.toPrecision(4)}).`,
    { tensor: name },
  );
}
