/**
 * The outlier threshold of LLM.int8() from data: the magnitude that a share of the activations stays below, over all inputs of the linears of the
 * original model. A checkpoint has one threshold (`llm_int8_threshold` in its config.json), so it must be known before the plan; the windows of the
 * calibration walk through the original model once for it.
 *
 * Refused: architectures that Sluice does not run, checkpoints that are quantized already.
 */
import { refuseQuantized } from "./assign.ts";
import type { Backend, Scope, Tensor } from "./backend.ts";
import { Calibration, type CalibrationInput, type StreamWeights } from "./calibrate.ts";
import { UnsupportedError } from "./errors.ts";
import { checkShapes } from "./families/mod.ts";
import type { Block, Model, Step } from "./family.ts";
import { histogram } from "./ops/histogram.ts";
import { modelOf } from "./plan.ts";
import { type Recipe, usesOutliers } from "./recipe.ts";
import { type Reporter, StepCounter } from "./report.ts";
import type { TensorSource } from "./source.ts";
import { tensorsRead } from "./streams.ts";
import { LoadedBlock, originalWeights } from "./weights.ts";

/**
 * The model in which outliers can be looked for.
 *
 * @throws {UnsupportedError} Sluice does not run it, or it is quantized already.
 */
export function modelWithOutliers(source: TensorSource): Model {
  refuseQuantized(source);
  try {
    return modelOf(source);
  } catch (error) {
    if (!(error instanceof UnsupportedError)) throw error;
    throw new UnsupportedError(
      `Cannot find the outliers of ${source.label}, because Sluice cannot run it: ${error.reason}. ` +
        "Give --threshold in place of --outlier-quantile.",
      { what: error.what, reason: error.reason, cause: error },
    );
  }
}

/**
 * The magnitude that a share of the activations stays below, rounded up to 3 decimals (from 65.536 on, to a whole number; at most 65536, which is
 * more than the runtime's float16 has).
 *
 * @param options.quantile The share, above 0 and at most 1.
 * @throws {UnsupportedError} Sluice does not run the architecture, the checkpoint is quantized already, or no activation is a number.
 * @throws {CheckpointError} a tensor is missing, or has a shape that the config does not imply.
 */
export async function outlierThreshold(
  source: TensorSource,
  { backend, calibration: input, quantile, report = () => {}, signal }: {
    readonly backend: Backend;
    readonly calibration: CalibrationInput;
    readonly quantile: number;
    readonly report?: Reporter;
    readonly signal?: AbortSignal;
  },
): Promise<number> {
  if (!(quantile > 0 && quantile <= 1)) {
    throw new RangeError(`Cannot take the quantile ${quantile}: it must be above 0, and at most 1`);
  }
  const model = modelWithOutliers(source);
  checkShapes(model, (name) => source.tensors.get(name)?.shape);
  const weights = originalWeights(source);
  const places = ["embedding", ...model.blocks.map(({ name }) => name)];
  source.schedule?.(
    places.flatMap((place) => tensorsRead(model, place)).map((name) => ({ name })),
  );
  using scope = backend.scope();
  const magnitudes = new Magnitudes(scope);
  await using calibration = await Calibration.open(model, {
    backend,
    input,
    propagate: false,
    counter: new StepCounter(report),
  });
  await calibration.embed(weights);
  for (const block of model.blocks) {
    using loading = backend.scope();
    const loaded = await LoadedBlock.load(block, weights, { scope: loading });
    await walkBlock(block, { calibration, loaded, magnitudes, signal });
  }
  return await magnitudes.quantile(quantile);
}

/** Send every window through a block, and look at each step's input. */
async function walkBlock(
  { name: block, steps }: Block,
  { calibration, loaded, magnitudes, signal }: {
    calibration: Calibration;
    loaded: LoadedBlock;
    magnitudes: Magnitudes;
    signal: AbortSignal | undefined;
  },
): Promise<void> {
  const quantized: StreamWeights = {
    linear: (linear, x, scope) => loaded.linear(linear, x, scope),
    weight: (name) => loaded.weight(name),
  };
  let at: Step | undefined;
  for (const to of [...steps, undefined]) {
    await calibration.pass({
      block,
      quantized,
      signal,
      ...(at ? { through: at } : {}),
      ...(to ? { to, observe: (x) => magnitudes.add(x) } : {}),
    });
    at = to;
  }
}

/** Equal bins on both sides of 0, the outermost of which hold all that is larger. */
const RANGES = [{ width: 0.001, decimals: 3 }, { width: 1, decimals: 0 }] as const;
/** Bins on one side. */
const BINS = 2 ** 16;
/** Values that are counted on the device before the counts are taken from it: each is a u32. */
const MOST_COUNTED = 2 ** 31;

/** Counts of magnitudes: fine ones near 0, coarse ones beyond. */
class Magnitudes {
  readonly #backend: Backend;
  readonly #counts: readonly Tensor[];
  /** By range and bin; sums beyond 2³². */
  readonly #sums = RANGES.map(() => new Float64Array(BINS));
  #waiting = 0;

  constructor(scope: Scope) {
    this.#backend = scope.backend;
    this.#counts = RANGES.map(() => scope.alloc("u32", [2 * BINS]));
    this.#clear();
  }

  /** Take in f32[T, C]. */
  async add(x: Tensor): Promise<void> {
    const size = x.shape.reduce((a, b) => a * b, 1);
    if (this.#waiting + size > MOST_COUNTED) await this.#take();
    this.#waiting += size;
    for (const [i, { width }] of RANGES.entries()) {
      const high = BINS * width;
      this.#backend.run(histogram, { x, counts: this.#counts[i]! }, { low: -high, high });
    }
  }

  /**
   * The upper end of the bin in which a share of the values is reached.
   *
   * @throws {UnsupportedError} none was a number.
   */
  async quantile(share: number): Promise<number> {
    await this.#take();
    for (const [i, { width, decimals }] of RANGES.entries()) {
      const sums = this.#sums[i]!;
      const wanted = share * sums.reduce((a, b) => a + b, 0);
      if (wanted === 0) break;
      let below = 0;
      const bin = sums.findIndex((count) => (below += count) >= wanted);
      const last = i === RANGES.length - 1;
      if (bin < BINS - 1 || last) return Number(((bin + 1) * width).toFixed(decimals));
    }
    throw new UnsupportedError(
      "Cannot find outliers: no activation of the original model is a number. Give --threshold in place of --outlier-quantile.",
      { what: "activations", reason: "none is a number" },
    );
  }

  async #take(): Promise<void> {
    const read = await this.#backend.read(...this.#counts);
    for (const [i, bytes] of read.entries()) {
      const counts = new Uint32Array(bytes.buffer);
      const sums = this.#sums[i]!;
      for (let bin = 0; bin < BINS; bin++) {
        sums[bin]! += counts[BINS + bin]! + counts[BINS - 1 - bin]!;
      }
    }
    this.#clear();
  }

  #clear(): void {
    for (const counts of this.#counts) this.#backend.write(counts, new Uint8Array(2 * BINS * 4));
    this.#waiting = 0;
  }
}

/** A recipe whose LLM_INT8 rules have a threshold, so that it can be planned. */
export function withThreshold(recipe: Recipe, threshold: number): Recipe {
  return {
    ...recipe,
    rules: recipe.rules.map((rule) =>
      usesOutliers(rule) ? { ...rule, options: { ...rule.options, threshold } } : rule
    ),
  };
}
