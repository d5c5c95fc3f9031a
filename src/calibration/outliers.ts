/**
 * The outlier threshold of LLM.int8() from data: the magnitude that a share of the activations
 * stays below, over all inputs of the linears of the original model. A checkpoint has one threshold
 * (`llm_int8_threshold` in its config.json), so it must be known before the plan; the windows of
 * the calibration walk through the original model once for it.
 *
 * Refused: architectures that Sluice does not run, checkpoints that are quantized already.
 */
import type { Backend } from "../backend.ts";
import type { CalibrationInput } from "./input.ts";
import { Calibration } from "./pass.ts";
import { UnsupportedError } from "../errors.ts";
import { checkShapes } from "../families/mod.ts";
import { countFloats } from "../linalg/float_counts.ts";
import { leastOfBin, SIGN_BINS } from "../ops/float_bins.ts";
import { requestOf } from "../plan/planned.ts";
import { modelWithOutliers } from "../plan/model.ts";
import { type Recipe, usesOutliers } from "../recipe.ts";
import { type Reporter, StepCounter } from "../report.ts";
import type { TensorSource } from "../source.ts";
import { tensorsRead } from "../forward/streams.ts";
import { checkWalk } from "../forward/walk_memory.ts";
import { LoadedBlock } from "../forward/loaded_block.ts";
import { originalWeights } from "../forward/weights.ts";
import { graphsOf } from "../graph/block_graph.ts";
import { stateWidths } from "../graph/stops.ts";
import type { Place } from "../plan/tasks.ts";

/**
 * The magnitude that a share of the activations stays below: exact to 1/512 of it, rounded up to 3
 * decimals; at most 65536, which is more than the runtime's float16 has.
 *
 * @param options.quantile The share, above 0 and at most 1.
 * @throws {UnsupportedError} Sluice does not run the architecture, the checkpoint is quantized
 * already, the device cannot hold a block, or too many activations are NaN or infinite.
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
  checkWalk("look for outliers", model, {
    backend,
    streams: [weights],
    windows: requestOf({ ...input, seqLen: input.windows[0]!.length }),
    statesPerToken: stateWidths(model, { propagate: false }).kept,
  });
  const places: Place[] = ["embedding", ...model.blocks.keys()];
  source.schedule?.(
    places.flatMap((place) => tensorsRead(model, place)).map((name) => ({ name })),
  );
  using scope = backend.scope();
  const magnitudes = countFloats(scope);
  await using calibration = new Calibration(model, {
    backend,
    input,
    propagate: false,
    counter: new StepCounter(report),
  });
  await calibration.embed(weights);
  for (const graph of graphsOf(model)) {
    using loading = backend.scope();
    const quantized = await LoadedBlock.load(graph, weights, { scope: loading });
    for (const to of graph.stages) {
      await calibration.pass({ graph, quantized, to, observe: (x) => magnitudes.add(x), signal });
    }
    await calibration.pass({ graph, quantized, signal });
  }
  return quantileOf(await magnitudes.finish(), quantile);
}

/** The runtime compares in float16, which has nothing larger. */
const MOST = 65536;

/**
 * The upper end of the bin in which a share of the values is reached.
 *
 * @param counts As `countFloats` gives them.
 * @throws {UnsupportedError} it is that of NaN and infinity.
 */
function quantileOf(counts: Float64Array, share: number): number {
  const magnitudes = Array.from(
    { length: SIGN_BINS },
    (_, bin) => counts[bin]! + counts[SIGN_BINS + bin]!,
  );
  const wanted = share * magnitudes.reduce((a, b) => a + b);
  let below = 0;
  const bin = magnitudes.findIndex((count) => (below += count) >= wanted);
  if (bin === SIGN_BINS - 1) {
    throw new UnsupportedError(
      "Cannot find outliers: too many activations of the original model are NaN or infinite. Give `threshold` in place of `outlier-quantile`.",
      { what: "activations", reason: "too many are NaN or infinite" },
    );
  }
  return Math.min(MOST, Math.ceil(leastOfBin(bin + 1) * 1000) / 1000);
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
