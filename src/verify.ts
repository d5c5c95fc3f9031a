/**
 * Reading back what was written, as a loader would: headers, offsets, sizes and the index (opening
 * does that), the section of config.json against the tensors, the scales; and, where the original
 * is at hand, every value and every copied byte. Changes nothing.
 */
import type { Backend } from "./backend.ts";
import { CheckpointError, quote } from "./errors.ts";
import type { Format, Verdict } from "./format.ts";
import { plain } from "./formats/plain.ts";
import { contentOf, shapesOf } from "./plan/content.ts";
import { droppedBecause } from "./plan/decide.ts";
import { misfitOf } from "./plan/misfit.ts";
import { modelIfAny } from "./plan/model.ts";
import type { Reporter, TensorReport } from "./report.ts";
import { RECORD_FILE } from "./io/names.ts";
import type { RunRecord } from "./report/record.ts";
import { readRecord } from "./report/record_file.ts";
import type { TensorSource } from "./source.ts";
import { openCheckpoint } from "./sources/checkpoint.ts";
import { byteLength, sum } from "./tensor.ts";
import { checkLayout, checkWeight } from "./verify/check_weight.ts";
import { checkNothingElse, compareFiles, differenceOf } from "./verify/compare.ts";
import { findMovedScales, type MovedScales } from "./verify/moved_scales.ts";
import { Originals } from "./verify/originals.ts";
import { addCasts, addRounded, findWeights } from "./verify/stored.ts";

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
  /** Norms and biases that took over scales of the weights after them (AWQ, SmoothQuant). */
  readonly smoothed: readonly string[];
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
  const bytes = sum([...output.tensors.values()], byteLength);
  report({
    type: "start",
    what: output.label,
    device: backend.description,
    tensors: output.tensors.size,
    bytes,
  });
  const originals = source && new Originals(source);
  if (source) addCasts(weights, output, source);
  if (originals && !format) await addRounded(weights, { output, originals, signal });
  if (originals) {
    for (const weight of weights.values()) {
      const original = originals.weightOf(weight);
      if (weight.scheme.kind !== "cast") checkLayout(weight, original, format ?? plain);
    }
    checkNothingElse(output, originals.source, weights);
  }
  const moved: MovedScales = originals
    ? await findMovedScales({
      output,
      originals,
      stored: weights,
      format: format ?? plain,
      backend,
    }, { report, signal })
    : { weights: new Map(), vectors: new Set() };
  const quantized: TensorReport[] = [];
  for (const weight of weights.values()) {
    const result = await checkWeight(weight, {
      backend,
      signal,
      output,
      originals,
      moved: moved.weights.get(weight.name),
      format: weight.scheme.kind === "cast" ? plain : format ?? plain,
    });
    quantized.push(result);
    const stored = sum(weight.parts, byteLength);
    report({ type: "quantized", tensor: result, bytes: stored });
  }
  const has = (name: string) => output.tensors.has(name) || weights.has(name);
  const runnable = modelIfAny(output, has);
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
      if (!moved.vectors.has(tensor.name)) {
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
    smoothed: [...moved.vectors],
    dropped,
    files: source ? await compareFiles(output, source) : [],
    tensors: output.tensors.size,
    bytes,
    loaders: (format ?? plain).loaders({
      ...contentOf(output, weights, originals?.model ?? runnable.model),
      misfit: misfitOf(output, runnable, shapesOf(output, weights, runnable.model)),
    }),
    record,
  };
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

/** @throws {CheckpointError} always: a tensor is not the source's. */
function refuseDifference(tensor: string, offset: number): never {
  throw new CheckpointError(
    `Cannot accept ${
      quote(tensor)
    }: it was to be copied, but byte ${offset} differs from the source's.`,
    { tensor, offset },
  );
}
