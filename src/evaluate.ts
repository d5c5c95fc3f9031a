/**
 * Measuring a checkpoint that is there already: perplexity of one, or perplexity and KL divergence
 * of one against its original, both walking the blocks side by side. A quantized checkpoint is run
 * from its stored codes, as its runtime would.
 */
import type { Backend } from "./backend.ts";
import { CheckpointError, quote } from "./errors.ts";
import type { Score, TokenScores } from "./evaluator.ts";
import { checkShapes } from "./families/mod.ts";
import type { Model } from "./family.ts";
import { recognize } from "./formats/mod.ts";
import { requestOf } from "./plan/planned.ts";
import { shapesOf } from "./plan/content.ts";
import { modelToEvaluate } from "./plan/model.ts";
import { type Reporter, StepCounter } from "./report.ts";
import type { Place } from "./plan/tasks.ts";
import type { TensorSource } from "./source.ts";
import { type EvaluationInput, scoreTokens, Streams, tensorsRead } from "./forward/streams.ts";
import { checkWalk } from "./forward/walk_memory.ts";
import { type ModelWeights, originalWeights, storedWeights } from "./forward/weights.ts";

/** What an evaluation needs. */
export interface EvaluateOptions {
  readonly backend: Backend;
  readonly evaluation: EvaluationInput;
  /** The original to compare with; absent: perplexity alone. */
  readonly reference?: TensorSource;
  readonly report?: Reporter;
  readonly signal?: AbortSignal;
}

/**
 * Measure a checkpoint, by evaluator name; without a reference only evaluators that need one model.
 *
 * @throws what `evaluateTokens` throws.
 */
export async function evaluate(
  source: TensorSource,
  options: EvaluateOptions,
): Promise<Readonly<Record<string, Score>>> {
  const tokens = await evaluateTokens(source, options);
  return scoreTokens(tokens, { paired: options.reference !== undefined });
}

/**
 * Measure a checkpoint at every token.
 *
 * @throws {UnsupportedError} the architecture, or the way it is quantized, is not known; or the
 * device cannot hold a block.
 * @throws {CheckpointError} a tensor is missing or has a shape that the config does not imply.
 */
export async function evaluateTokens(
  source: TensorSource,
  { backend, evaluation, reference, report = () => {}, signal }: EvaluateOptions,
): Promise<TokenScores> {
  const model = await modelToEvaluate(source);
  const measured = await weightsOf(source, model);
  const weights = reference ? [await weightsOf(reference, model), measured] : [measured];
  checkWalk("evaluate", model, {
    backend,
    streams: weights,
    windows: requestOf({ ...evaluation, seqLen: evaluation.windows[0]!.length }),
    statesPerToken: weights.length * model.hiddenSize,
  });
  await using streams = await Streams.open(model, {
    backend,
    evaluation,
    counter: new StepCounter(report),
    weights,
  });
  const places: Place[] = ["embedding", ...model.blocks.keys()];
  for (const { source, stored } of weights) {
    const names = [...places, undefined].flatMap((place) => tensorsRead(model, place));
    const parts = (name: string) => stored(name)?.weight.parts ?? [{ name }];
    source.schedule?.(names.flatMap((name) => parts(name).map(({ name }) => ({ name }))));
  }
  for (const place of places) await streams.advance(place, { signal });
  const [tokens] = await streams.score({ signal }) as [TokenScores];
  checkScores(tokens, { source, reference });
  for (const { source } of weights) await source.verified?.();
  return tokens;
}

/**
 * @throws {CheckpointError} a model's logits are not finite on the text, so that there is nothing
 * to measure.
 */
function checkScores(
  { quantizedNll, originalNll }: TokenScores,
  { source, reference }: { source: TensorSource; reference: TensorSource | undefined },
): void {
  for (
    const [nll, { label }] of [[originalNll, reference ?? source], [quantizedNll, source]] as const
  ) {
    if (nll.every((value) => !Number.isNaN(value))) continue;
    throw new CheckpointError(
      `Cannot evaluate ${
        quote(label)
      }: its logits are NaN or infinite on the text. Look for such ` +
        "values in its weights, scales and norms.",
    );
  }
}

/** Where a checkpoint's weights come from, quantized or not. */
export async function weightsOf(source: TensorSource, model: Model): Promise<ModelWeights> {
  const found = await recognize(source);
  checkShapes(model, shapesOf(source, found?.weights ?? new Map(), model));
  return found ? storedWeights(source, found) : originalWeights(source);
}
