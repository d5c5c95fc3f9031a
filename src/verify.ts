/**
 * Reading back what was written, as a loader would: headers, offsets, sizes and the index (opening
 * does that), the section of config.json against the tensors, the scales; and, where the original
 * is at hand, every value and every copied byte. Changes nothing.
 */
import { droppedBecause } from "./assign.ts";
import type { Backend } from "./backend.ts";
import { unscaled } from "./calibrated_block.ts";
import { checkNothingElse, compareFiles, differenceOf } from "./compare.ts";
import { contentOf, isFloat } from "./content.ts";
import { CheckpointError, quote } from "./errors.ts";
import type { Format, StoredWeight, Verdict } from "./format.ts";
import { FORMATS, recognize, type Recognized } from "./formats/mod.ts";
import { plain } from "./formats/plain.ts";
import { isObject } from "./json.ts";
import type { ErrorSums } from "./metric.ts";
import { ErrorGatherer, METRICS } from "./metrics/mod.ts";
import {
  findMovedScales,
  isRounded,
  type Moved,
  type MovedScales,
  withScales,
} from "./moved_scales.ts";
import type { DeviceDType } from "./op.ts";
import { RECORD_FILE, type RunRecord } from "./record.ts";
import { readRecord } from "./record_file.ts";
import { sliceOf } from "./slices.ts";
import type { Reporter, TensorReport } from "./report.ts";
import type { Quantized } from "./scheme.ts";
import { schemeKind } from "./schemes/mod.ts";
import type { TensorSource } from "./source.ts";
import { openCheckpoint } from "./sources/checkpoint.ts";
import { byteLength, elementCount, matrixShape, sum, type TensorInfo } from "./tensor.ts";
import { quantizedBy } from "./usable.ts";
import { keepWhole } from "./whole_reads.ts";

/** How to verify. */
export interface VerifyOptions {
  readonly backend: Backend;
  /**
   * What the checkpoint was made of. Without it values are checked to be finite, and no more can be
   * said of them.
   */
  readonly source?: TensorSource;
  readonly report?: Reporter;
  /** Stops between two slices. */
  readonly signal?: AbortSignal;
}

/** What was found to be in order. */
export interface VerifyReport {
  readonly label: string;
  /** The format's name; undefined when nothing is quantized. */
  readonly format: string | undefined;
  /** Every quantized or cast weight; metrics against the source, if there is one. */
  readonly quantized: readonly TensorReport[];
  /** Tensors that equal the source's byte for byte; 0 without a source. */
  readonly copied: number;
  /** Norms that took over scales of the weights after them (AWQ, SmoothQuant). */
  readonly scaled: readonly string[];
  /** Tensors of the source that are left out, each for a reason. */
  readonly dropped: readonly string[];
  /** Companion files that equal the source's. */
  readonly files: readonly string[];
  /** Tensors and bytes of the checkpoint. */
  readonly tensors: number;
  readonly bytes: number;
  readonly loaders: readonly Verdict[];
  /** What its `sluice.json` says of how it was made; undefined when it has none. */
  readonly record: RunRecord | undefined;
}

/**
 * Verify a checkpoint.
 *
 * @throws {CheckpointError} a check failed; the tensor or file is named.
 * @throws {RequestError} there is no checkpoint at `path`.
 * @throws {UnsupportedError} it is quantized in a way that Sluice does not read.
 */
export async function verify(path: string | URL, options: VerifyOptions): Promise<VerifyReport> {
  const { backend, source, report = () => {}, signal } = options;
  await using output = await openCheckpoint(path);
  const { format, weights } = await findWeights(output);
  const record = await readRecord(output);
  if (record) checkRecord(record, format ?? plain, output);
  if (source) addCasts(weights, output, source);
  if (source && !format) await addRounded(weights, { output, source, signal });
  const bytes = sum([...output.tensors.values()], byteLength);
  report({
    type: "start",
    what: output.label,
    device: backend.description,
    tensors: output.tensors.size,
    bytes,
  });
  if (source) {
    for (const weight of weights.values()) {
      const original = originalOf(weight, source);
      if (weight.scheme.kind !== "cast") checkLayout(weight, original, format ?? plain);
    }
    checkNothingElse(output, source, weights);
  }
  const moved: MovedScales = source
    ? await findMovedScales({ output, source, stored: weights, format: format ?? plain, backend })
    : { weights: new Map(), norms: new Set() };
  const quantized: TensorReport[] = [];
  for (const weight of weights.values()) {
    const original = source && originalOf(weight, source);
    const result = await checkWeight(weight, {
      ...options,
      output,
      original,
      moved: moved.weights.get(weight.name),
      format: weight.scheme.kind === "cast" ? plain : format ?? plain,
    });
    quantized.push(result);
    const stored = weight.parts.reduce((n, part) => n + byteLength(part), 0);
    report({ type: "quantized", tensor: result, bytes: stored });
  }
  let copied = 0;
  const dropped: string[] = [];
  if (source) {
    for (const tensor of source.tensors.values()) {
      if (weights.has(tensor.name)) continue;
      if (!output.tensors.has(tensor.name)) {
        if (droppedBecause(tensor.name) === undefined) {
          throw new CheckpointError(
            `Cannot accept the checkpoint: ${quote(source.label)} has ${
              quote(tensor.name)
            }, and it does not.`,
            { tensor: tensor.name },
          );
        }
        dropped.push(tensor.name);
        continue;
      }
      if (!moved.norms.has(tensor.name)) {
        const at = await differenceOf(tensor, output, source, signal);
        if (at !== undefined) refuseDifference(tensor.name, at);
        copied++;
      }
      report({ type: "copied", name: tensor.name, bytes: byteLength(tensor) });
    }
  }
  return {
    label: output.label,
    format: format?.name,
    quantized,
    copied,
    scaled: [...moved.norms],
    dropped,
    files: source ? await compareFiles(output, source) : [],
    tensors: output.tensors.size,
    bytes,
    loaders: (format ?? plain).loaders(contentOf(output, weights)),
    record,
  };
}

/**
 * The quantized weights, and the format they are in; the section of config.json must not promise
 * what the tensors do not keep.
 */
async function findWeights(
  output: TensorSource,
): Promise<{ format: Format | undefined; weights: Map<string, StoredWeight> }> {
  const found = await recognize(output);
  if (found && found.weights.size > 0) {
    await checkSectionFile(output, found);
    return { format: found.format, weights: new Map(found.weights) };
  }
  const by = quantizedBy(output);
  if (by === undefined) return { format: undefined, weights: new Map() };
  const problem = found
    ? `config.json says that it is quantized (${by}), but no tensor is`
    : output.config.quantization_config === undefined
    ? `tensors are quantized (${by}), but config.json has no quantization_config that says so`
    : `it is quantized (${by}), and Sluice reads ${
      FORMATS.flatMap(({ quantMethod }) => quantMethod ?? []).join(", ")
    }`;
  throw new CheckpointError(`Cannot accept ${quote(output.label)}: ${problem}.`, {
    file: "config.json",
  });
}

/**
 * The file that holds the section alone is read before config.json by some loaders: if it is there,
 * it must say the same of every weight.
 */
async function checkSectionFile(
  output: TensorSource,
  { format, weights }: Recognized,
): Promise<void> {
  const { sectionFile: file, quantMethod } = format;
  const text = file === undefined ? undefined : await output.readSettings?.(file);
  if (file === undefined || text === undefined) return;
  const refuse = (what: string, cause?: unknown): never => {
    throw new CheckpointError(`Cannot accept ${file}: ${what}.`, { file, cause });
  };
  let section: unknown;
  try {
    section = JSON.parse(text);
  } catch (cause) {
    refuse(`it is not JSON (${(cause as Error).message})`, cause);
  }
  if (!isObject(section)) return refuse("it must hold an object");
  const config = { quantization_config: { quant_method: quantMethod, ...section } };
  const others = await format.recognize({
    tensors: output.tensors,
    config,
    read: output.read.bind(output),
  });
  for (const { name, scheme } of weights.values()) {
    const other = others?.get(name)?.scheme;
    if (JSON.stringify(other) === JSON.stringify(scheme)) continue;
    refuse(
      `by it ${quote(name)} is ${
        other ? schemeKind(other).label(other) : "not quantized"
      }, and by config.json ${schemeKind(scheme).label(scheme)}`,
    );
  }
}

/** @throws {CheckpointError} the record is of other tensors. */
function checkRecord(record: RunRecord, format: Format, output: TensorSource): void {
  const says = (name: string, { tensors, bytes }: RunRecord["stored"]) =>
    `${name} in ${tensors} tensors of ${bytes} bytes`;
  const recorded = says(record.format, record.stored);
  const found = says(format.name, {
    tensors: output.tensors.size,
    bytes: sum([...output.tensors.values()], byteLength),
  });
  if (recorded === found) return;
  throw new CheckpointError(
    `Cannot accept ${RECORD_FILE}: it tells of ${quote(recorded)}, and here is ${found}. ` +
      `It belongs to another checkpoint: take it away, or put the right one in its place.`,
    { file: RECORD_FILE },
  );
}

/** Weights whose dtype differs from the source's are casts, which nothing but the source tells. */
function addCasts(
  weights: Map<string, StoredWeight>,
  output: TensorSource,
  source: TensorSource,
): void {
  for (const { name, dtype, shape } of source.tensors.values()) {
    const stored = output.tensors.get(name);
    if (!stored || weights.has(name) || stored.dtype === dtype) continue;
    const { dtype: to } = stored;
    const isFloat = (of: string) => of === "f32" || of === "bf16" || of === "f16";
    if (!isFloat(dtype) || (to !== "f32" && to !== "bf16" && to !== "f16")) continue;
    weights.set(name, { name, shape, scheme: { kind: "cast", dtype: to }, parts: [stored] });
  }
}

/**
 * Where nothing is quantized, matrices that differ from the source's hold the values they were
 * rounded to (the format `plain`): casts to the dtype that they had.
 */
async function addRounded(
  weights: Map<string, StoredWeight>,
  { output, source, signal }: {
    output: TensorSource;
    source: TensorSource;
    signal: AbortSignal | undefined;
  },
): Promise<void> {
  for (const tensor of source.tensors.values()) {
    const { name, dtype, shape } = tensor;
    const stored = output.tensors.get(name);
    const isMatrix = shape.length === 2 || shape.length === 4;
    if (!stored || weights.has(name) || !isMatrix || !isFloat(dtype)) continue;
    if (await differenceOf(tensor, output, source, signal) === undefined) continue;
    weights.set(name, { name, shape, scheme: { kind: "cast", dtype }, parts: [stored] });
  }
}

function originalOf({ name, shape }: StoredWeight, source: TensorSource): TensorInfo {
  const original = source.tensors.get(name);
  if (original?.shape.join() === shape.join()) return original;
  throw new CheckpointError(
    `Cannot verify "${name}": it is stored with shape [${shape.join(", ")}], and ` +
      `${quote(source.label)} has ${
        original ? `[${original.shape.join(", ")}]` : "no such tensor"
      }.`,
    { tensor: name },
  );
}

/** @throws {CheckpointError} always: a tensor is not the source's. */
function refuseDifference(tensor: string, offset: number): never {
  throw new CheckpointError(
    `Cannot accept ${
      quote(tensor)
    }: it was to be copied, but byte ${offset} differs from the source's.`,
    { tensor, offset },
  );
}

/** The parts must be exactly those that the format lays out for this weight. */
function checkLayout(weight: StoredWeight, original: TensorInfo, format: Format): void {
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

interface Check extends VerifyOptions {
  readonly output: TensorSource;
  readonly original: TensorInfo | undefined;
  readonly moved: Moved | undefined;
  readonly format: Format;
}

/**
 * Unpack one weight slice by slice; its scales must be finite, and its values near the source's.
 */
async function checkWeight(weight: StoredWeight, check: Check): Promise<TensorReport> {
  const { backend, source, signal, output, original, format, moved } = check;
  const [rows, columns] = matrixShape(weight.shape);
  const info = original ?? { name: weight.name, dtype: "f32", shape: weight.shape };
  const { sliceRows } = sliceOf(info, weight.scheme, format, backend);
  using errors = source ? new ErrorGatherer(backend) : undefined;
  using distance = source && moved ? new ErrorGatherer(backend) : undefined;
  const read = format.gathers ? keepWhole(output.read.bind(output)) : output.read.bind(output);
  for (let from = 0; from < rows; from += sliceRows) {
    signal?.throwIfAborted();
    const slice = { from, to: Math.min(rows, from + sliceRows) };
    using scope = backend.scope();
    const quantized = await format.unpack(weight, read, { scope, rows: slice });
    await checkFinite(quantized, weight.name, backend);
    if (!source || !errors) continue;
    const values = unscaled({
      scales: moved?.columns,
      rowFactors: moved?.rows,
    }, { rows: slice, quantized, scope });
    const tensor = scope.alloc(info.dtype as DeviceDType, [slice.to - from, columns]);
    backend.write(tensor, await source.read(weight.name, slice));
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

/** Scales that are not finite, or fp8 codes that are NaN, poison every value they touch. */
async function checkFinite(quantized: Quantized, name: string, backend: Backend): Promise<void> {
  const { scale, absmax, codes, input_scale: input } = quantized.tensors;
  const scales = [scale ?? absmax, input].filter((tensor) => tensor !== undefined);
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
