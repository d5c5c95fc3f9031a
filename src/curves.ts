/**
 * Rate against distortion: what every scheme makes of some weights of a model, and of numbers of
 * three distributions, in bits a weight and decibels, beside the least that Shannon says any code
 * must lose. Writes nothing. Refuses patterns that name no float matrix, and quantized checkpoints.
 */
import type { Backend } from "./backend.ts";
import { type DataSet, drawnData, weightData } from "./curves/data.ts";
import type { CurvePoint, Curves } from "./curves/measured.ts";
import { LINES, schemeLabel, storedBits } from "./curves/schemes.ts";
import { CheckpointError, quote, UnsupportedError } from "./errors.ts";
import { graphsOf, transposedTensors } from "./graph/block_graph.ts";
import { ErrorGatherer } from "./metrics/mod.ts";
import { floatsFrom } from "./number.ts";
import { modelIfAny } from "./plan/model.ts";
import { refuseQuantized } from "./plan/usable.ts";
import { matches } from "./recipe.ts";
import type { Reporter } from "./report.ts";
import type { Scheme } from "./scheme.ts";
import { schemeKind } from "./schemes/mod.ts";
import type { TensorSource } from "./source.ts";
import { isFloat, type TensorInfo } from "./tensor.ts";

/** How curves are measured. */
export interface CurvesOptions {
  readonly backend: Backend;
  /** Names of weights, as recipes have patterns; absent: five from the first block to the last. */
  readonly tensor?: string;
  /** Of the numbers that are drawn. */
  readonly seed?: number;
  readonly report?: Reporter;
  /** Stops between two schemes. */
  readonly signal?: AbortSignal;
}

/** How many weights are looked at unless a pattern says which. */
const USUAL_WEIGHTS = 5;

/**
 * Measure the curves.
 *
 * @throws {UnsupportedError} the checkpoint is quantized, or the pattern names no float matrix.
 */
export async function curves(source: TensorSource, options: CurvesOptions): Promise<Curves> {
  const { backend, tensor, seed = 1, report = () => {}, signal } = options;
  refuseQuantized(source, {
    doing: `draw curves for ${quote(source.label)}`,
    advice: "Give the original.",
  });
  const { model } = modelIfAny(source);
  const turned = model ? transposedTensors(model) : new Set<string>();
  const blocks = model
    ? graphsOf(model).map(({ matrices }) => matrices.map(({ at }) => at.of))
    : [[...source.tensors.keys()]];
  const chosen = chooseWeights(source, { blocks, pattern: tensor });
  const drawn = drawnData(seed);
  report({
    type: "start",
    what: source.label,
    device: backend.description,
    tensors: drawn.length + chosen.length,
    bytes: 0,
  });
  const points: CurvePoint[] = [];
  const data: Curves["data"][number][] = [];
  const measureAll = async (set: DataSet, weight: boolean) => {
    const [rows, columns] = set.shape;
    data.push({ name: set.name, rows, columns, weight, bound: set.bound });
    for (const line of LINES) {
      for (const scheme of line.schemes(set.shape, set.scaleDType)) {
        signal?.throwIfAborted();
        if (schemeKind(scheme).check(scheme, set.shape) !== true) continue;
        const { noise, signal: power } = await measure(set, { scheme, line, backend });
        // What is all zeros, or loses nothing, has no decibels.
        if (!(power > 0) || !(noise > 0)) continue;
        points.push({
          data: set.name,
          line: line.name,
          scheme: schemeLabel(scheme),
          uniform: line.uniform,
          bits: storedBits(scheme, { shape: set.shape, dtype: set.scaleDType }),
          distortion: noise / power,
          sqnrDb: 10 * Math.log10(power / noise),
        });
      }
    }
  };
  for (const set of drawn) await measureAll(set, false);
  for (const info of chosen) {
    await measureAll(await weightData(info, source, { turned: turned.has(info.name) }), true);
  }
  const of = (line: number) => levelsOf(drawn[0]!, { line, backend });
  return {
    model: source.label,
    seed,
    data,
    points,
    levels: { uniform: await of(2), lloydMax: await of(3) },
  };
}

/** The weights that a pattern names, or some of all blocks, of different kinds. */
function chooseWeights(
  { tensors, label }: TensorSource,
  { blocks, pattern }: {
    /** Names of the weights of each block. */
    readonly blocks: readonly (readonly string[])[];
    readonly pattern: string | undefined;
  },
): TensorInfo[] {
  const isMatrix = ({ dtype, shape }: TensorInfo) => isFloat(dtype) && shape.length === 2;
  const able = blocks.map((names) =>
    names.flatMap((name) => tensors.get(name) ?? []).filter(isMatrix)
  ).filter(({ length }) => length > 0);
  if (pattern === undefined) {
    const spread = Array.from({ length: USUAL_WEIGHTS }, (_, i) => {
      const block = able[Math.round(i * (able.length - 1) / (USUAL_WEIGHTS - 1))];
      return block?.[Math.round(i * (block.length - 1) / (USUAL_WEIGHTS - 1))];
    });
    return [...new Set(spread)].filter((info) => info !== undefined);
  }
  const named = [...tensors.values()].filter(({ name }) => matches(pattern, name));
  const found = named.filter(isMatrix);
  if (found.length > 0) return found;
  const example = able[able.length >> 1]?.[0]?.name;
  throw new UnsupportedError(
    `Cannot draw curves for "${pattern}": ${
      named.length > 0 ? "what it names in" : "no tensor of"
    } ${label} ${named.length > 0 ? "is no matrix of bf16, f16 or f32" : "matches it"}.${
      example === undefined ? "" : ` Its weights have names such as "${example}".`
    }`,
    { what: pattern, reason: "the pattern names no float matrix" },
  );
}

/** Squared error and squared values. */
async function measure(
  set: DataSet,
  { scheme, line, backend }: {
    readonly scheme: Scheme;
    readonly line: typeof LINES[number];
    readonly backend: Backend;
  },
): Promise<{ noise: number; signal: number }> {
  using scope = backend.scope();
  const weight = scope.alloc(set.dtype, set.shape);
  backend.write(weight, set.bytes);
  const kind = schemeKind(scheme);
  const quantized = await kind.quantize(scheme, weight, { scope, search: line.search });
  using errors = new ErrorGatherer(backend);
  await errors.add(weight, kind.dequantize(quantized, scope));
  const sums = errors.sums();
  if (Number.isFinite(sums.noise)) return sums;
  throw new CheckpointError(`Cannot quantize ${quote(set.name)}: it holds NaN or infinity.`, {
    tensor: set.name,
  });
}

/** The levels that a line of 3 bits has on data. */
async function levelsOf(
  set: DataSet,
  { line, backend }: { readonly line: number; readonly backend: Backend },
): Promise<number[]> {
  using scope = backend.scope();
  const { schemes, search } = LINES[line]!;
  const scheme = schemes(set.shape, "f32").find((one) => "bits" in one && one.bits === 3)!;
  const weight = scope.alloc(set.dtype, set.shape);
  backend.write(weight, set.bytes);
  const kind = schemeKind(scheme);
  const quantized = await kind.quantize(scheme, weight, { scope, search });
  const [bytes] = await backend.read(kind.dequantize(quantized, scope));
  return [...new Set(floatsFrom("f32", bytes!))].sort((a, b) => a - b);
}
