/**
 * The quantized weights of a checkpoint as its config and its tensors tell of them, and as only the
 * original does: casts and rounded values.
 */
import { CheckpointError, quote } from "../errors.ts";
import type { Format, StoredWeight } from "../format.ts";
import { FORMATS, recognize, type Recognized } from "../formats/mod.ts";
import { transposedTensors } from "../graph/block_graph.ts";
import { isObject } from "../json.ts";
import { quantizedBy } from "../plan/usable.ts";
import { schemeKind } from "../schemes/mod.ts";
import type { TensorSource } from "../source.ts";
import { isFloat } from "../tensor.ts";
import { differenceOf } from "./compare.ts";
import type { Originals } from "./originals.ts";

/**
 * The quantized weights, and the format they are in; the section of config.json must not promise
 * what the tensors do not keep.
 */
export async function findWeights(
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

/** Weights whose dtype differs from the source's are casts, which nothing but the source tells. */
export function addCasts(
  weights: Map<string, StoredWeight>,
  output: TensorSource,
  source: TensorSource,
): void {
  for (const { name, dtype, shape } of source.tensors.values()) {
    const stored = output.tensors.get(name);
    if (!stored || weights.has(name) || stored.dtype === dtype) continue;
    const { dtype: to } = stored;
    if (!isFloat(dtype) || !isFloat(to)) continue;
    weights.set(name, { name, shape, scheme: { kind: "cast", dtype: to }, parts: [stored] });
  }
}

/**
 * Where nothing is quantized, matrices that differ from the source's hold the values they were
 * rounded to (the format `plain`): casts to the dtype that they had.
 */
export async function addRounded(
  weights: Map<string, StoredWeight>,
  { output, originals: { source, model }, signal }: {
    output: TensorSource;
    originals: Originals;
    signal: AbortSignal | undefined;
  },
): Promise<void> {
  const turned = model ? transposedTensors(model) : new Set<string>();
  for (const tensor of source.tensors.values()) {
    const { name, dtype, shape } = tensor;
    const stored = output.tensors.get(name);
    const isMatrix = shape.length === 2 || shape.length === 4;
    if (!stored || weights.has(name) || !isMatrix || !isFloat(dtype)) continue;
    if (await differenceOf(tensor, output, source, signal) === undefined) continue;
    const scheme = { kind: "cast", dtype } as const;
    const weight = { name, shape, scheme, parts: [stored] };
    // Matrices that are stored turned were rounded as [R, C].
    weights.set(
      name,
      turned.has(name) ? { ...weight, shape: shape.toReversed(), transposed: true } : weight,
    );
  }
}
