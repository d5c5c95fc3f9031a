/**
 * How many weights should share a scale: a model quantized by each granularity, rounded to nearest,
 * and measured against itself. Nothing is written. Refuses models that Sluice cannot run.
 */
import type { Backend } from "./backend.ts";
import { quote, UnsupportedError } from "./errors.ts";
import type { Model } from "./family.ts";
import type { EvaluationInput } from "./forward/streams.ts";
import type { Granularities, GranularityRow } from "./granularity/measured.ts";
import { plan } from "./plan.ts";
import type { Plan, WindowsRequest } from "./plan/planned.ts";
import { quantizeTasks } from "./plan/tasks.ts";
import { evaluableModel } from "./plan/model.ts";
import { refuseQuantized } from "./plan/usable.ts";
import { recipeFromOptions } from "./recipe.ts";
import type { Reporter } from "./report.ts";
import type { RunReport } from "./report/run_report.ts";
import { run } from "./run.ts";
import { scaleCount } from "./schemes/tiles.ts";
import { openNowhere } from "./sinks/nowhere.ts";
import type { TensorSource } from "./source.ts";
import { elementCount, sum } from "./tensor.ts";

/** Granularities by name, and the options that ask for them; those of the fewest scales first. */
const GRANULARITIES: readonly (readonly [name: string, options: Record<string, unknown>])[] = [
  ["per tensor", { "group-size": 0 }],
  ["blocks of 64×64", { "block-structure": "64x64" }],
  ["per row", { "group-size": -1 }],
  ["per column", { "block-structure": "0x1" }],
  ["groups of 256", { "group-size": 256 }],
  ["groups of 128", { "group-size": 128 }],
  ["groups of 64", { "group-size": 64 }],
  ["groups of 32", { "group-size": 32 }],
];

/** How granularities are measured. */
export interface GranularityOptions {
  readonly backend: Backend;
  /** Windows to measure on, and how a plan may keep their hidden states. */
  readonly evaluation: EvaluationInput;
  readonly request: WindowsRequest;
  /** Of the codes; 4 unless given. */
  readonly bits?: number;
  readonly report?: Reporter;
  /** Stops between two slices. */
  readonly signal?: AbortSignal;
}

/**
 * The model whose granularities can be compared.
 *
 * @throws {UnsupportedError} Sluice does not run it, or it is quantized already.
 */
export function granularityModel(source: TensorSource): Model {
  refuseQuantized(source, {
    doing: `compare granularities of ${quote(source.label)}`,
    advice: "Give the original.",
  });
  return evaluableModel(source, { advice: "Give a model that Sluice can run." });
}

/**
 * Measure every granularity that the model's weights can have.
 *
 * @throws {UnsupportedError} they can have none, or the model cannot be run.
 */
export async function granularity(
  source: TensorSource,
  { backend, evaluation, request, bits = 4, report, signal }: GranularityOptions,
): Promise<Granularities> {
  granularityModel(source);
  const rows: GranularityRow[] = [];
  const refused: { name: string; why: string }[] = [];
  let original = NaN;
  for (const [name, options] of GRANULARITIES) {
    const recipe = recipeFromOptions({
      scheme: `W${bits}A16`,
      method: "rtn",
      // What has no format of its own is measured too.
      format: "plain",
      ...options,
    });
    let work: Plan;
    try {
      work = plan(recipe, source, { device: backend, evaluation: request });
    } catch (error) {
      // Groups that do not divide a row; what stops all of them is thrown below.
      if (!(error instanceof UnsupportedError)) throw error;
      refused.push({ name, why: error.message });
      continue;
    }
    await using sink = openNowhere();
    const found = await run(work, {
      source,
      backend,
      sink,
      evaluation,
      metrics: true,
      ...(report ? { report } : {}),
      ...(signal ? { signal } : {}),
    });
    original = found.scores.perplexity!.original_perplexity!;
    rows.push({ name, bits: bitsOf(work), ...numbersOf(found) });
  }
  if (rows.length === 0) {
    throw new UnsupportedError(
      `Cannot compare granularities of ${source.label}: it can have none. ${refused[0]!.why}`,
      { what: source.label, reason: "no granularity fits" },
    );
  }
  return { model: source.label, bits, perplexity: original, rows, refused };
}

/** Bits a quantized weight: those of its code, and its part of the scales. */
function bitsOf({ units }: Plan): number {
  const tasks = quantizeTasks(units);
  const bits = sum(tasks, ({ scheme, weight: { shape } }) => {
    if (scheme.kind !== "int") throw new TypeError(`Granularity of ${scheme.kind} is not known`);
    const scale = scheme.scaleDType === "f32" ? 32 : 16;
    return elementCount(shape) * scheme.bits + scaleCount(scheme.strategy, shape) * scale;
  });
  return bits / sum(tasks, ({ weight }) => elementCount(weight.shape));
}

function numbersOf(
  { tensors, scores: { perplexity, divergence }, phases }: RunReport,
): Omit<GranularityRow, "name" | "bits"> {
  const finite = tensors.map(({ metrics }) => metrics.sqnr_db!).filter(Number.isFinite);
  return {
    sqnrDb: sum(finite, (db) => db) / finite.length,
    perplexity: perplexity!.perplexity!,
    divergence: divergence!.mean!,
    divergenceError: divergence!.standard_error!,
    seconds: phases.total.round?.seconds ?? 0,
  };
}
