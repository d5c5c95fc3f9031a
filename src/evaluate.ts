/**
 * Measuring a checkpoint that is there already: perplexity of one, or perplexity and KL divergence of one against its original, both
 * walking the blocks side by side. A quantized checkpoint is run from its stored codes, as its runtime would.
 */
import { quantizedBy } from "./assign.ts";
import type { Backend } from "./backend.ts";
import { makeWindows, readCorpus, tokenize } from "./calibration.ts";
import { UnsupportedError } from "./errors.ts";
import type { Score } from "./evaluator.ts";
import { checkShapes } from "./families/mod.ts";
import type { Model } from "./family.ts";
import { recognize } from "./formats/mod.ts";
import type { HubClient } from "./hub/client.ts";
import { type Disk, disk as realDisk } from "./io/disk.ts";
import { modelOf } from "./plan.ts";
import { type Reporter, StepCounter } from "./report.ts";
import type { TensorSource } from "./source.ts";
import { type EvaluationInput, scoreTokens, Streams, tensorsRead } from "./streams.ts";
import { type ModelWeights, originalWeights, storedWeights } from "./weights.ts";

/** Bytes of hidden states kept in memory unless told otherwise. */
export const STATE_BUDGET = 1e9;

/** Tokens of a window unless told otherwise; fewer when the model has fewer positions. */
export const SEQ_LEN = 2048;

/** What text a model is measured on. */
export interface CorpusOptions {
  /** `sample`, the path of a text or JSONL file, or a dataset of the Hub. */
  readonly corpus?: string;
  /** Tokens per window. */
  readonly seqLen?: number;
  /** The first windows of the text; all of them when absent. */
  readonly numSamples?: number;
  /** Bytes of hidden states kept in memory. */
  readonly stateBudget?: number;
  /** A folder for hidden states beyond the budget. */
  readonly spillFolder?: string;
  readonly disk?: Disk;
  /** Where datasets come from: `wikitext2`, `c4`, `org/name`. */
  readonly hub?: HubClient;
  readonly report?: Reporter;
}

/** Tokens to measure a model on, and how many there were. */
export interface PreparedWindows extends EvaluationInput {
  readonly seqLen: number;
  /** Windows the whole text has; `windows` may be fewer. */
  readonly available: number;
  /** Tokens of the whole text. */
  readonly tokens: number;
}

/**
 * Tokenize a text with a checkpoint's tokenizer and cut it into windows: one stream, no overlap, the tail dropped (the protocol of
 * the GPTQ paper, arXiv 2210.17323).
 *
 * @throws {RequestError} there is no such text, or it is shorter than a window.
 * @throws {UnsupportedError} the architecture is not known, or there is no tokenizer.json.
 */
export async function prepareWindows(
  source: TensorSource,
  {
    corpus = "sample",
    seqLen,
    numSamples,
    stateBudget = STATE_BUDGET,
    spillFolder,
    disk = realDisk,
    hub,
    report,
  }: CorpusOptions = {},
): Promise<PreparedWindows> {
  const { maxPositions } = await modelFrom(source);
  const length = seqLen ?? Math.min(SEQ_LEN, maxPositions);
  const text = await readCorpus(corpus, {
    disk,
    purpose: "evaluation",
    ...(hub ? { hub } : {}),
    ...(report ? { report } : {}),
  });
  const tokens = await tokenize(source, text);
  const windows = makeWindows(tokens, {
    seqLen: length,
    maxPositions,
    ...(numSamples === undefined ? {} : { maxWindows: numSamples }),
  });
  return {
    windows,
    stateBudget,
    ...(spillFolder === undefined ? {} : { spill: { disk, folder: spillFolder } }),
    seqLen: length,
    available: Math.floor(tokens.length / length),
    tokens: tokens.length,
  };
}

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
 * @throws {UnsupportedError} the architecture, or the way it is quantized, is not known.
 * @throws {CheckpointError} a tensor is missing or has a shape that the config does not imply.
 */
export async function evaluate(
  source: TensorSource,
  { backend, evaluation, reference, report = () => {}, signal }: EvaluateOptions,
): Promise<Readonly<Record<string, Score>>> {
  const model = await modelFrom(source);
  const measured = await weightsOf(source, model);
  const weights = reference ? [await weightsOf(reference, model), measured] : [measured];
  await using streams = await Streams.open(model, {
    backend,
    evaluation,
    counter: new StepCounter(report),
    count: reference ? 2 : 1,
  });
  const places = ["embedding", ...model.blocks.map(({ name }) => name)];
  for (const { source, stored } of weights) {
    const names = [...places, undefined].flatMap((place) => tensorsRead(model, place));
    const parts = (name: string) => stored(name)?.weight.parts ?? [{ name }];
    source.schedule?.(names.flatMap((name) => parts(name).map(({ name }) => ({ name }))));
  }
  for (const place of places) await streams.advance(place, weights, { signal });
  const tokens = await streams.score(weights, { signal });
  for (const { source } of weights) await source.verified?.();
  return scoreTokens(tokens, { paired: reference !== undefined });
}

/** The model of a checkpoint, whose weights may be quantized. */
async function modelFrom(source: TensorSource): Promise<Model> {
  const found = await recognize(source);
  const by = quantizedBy(source);
  if (!found && by !== undefined) {
    throw new UnsupportedError(
      `Cannot evaluate ${source.label}: it is quantized (${by}), and Sluice does not read its files.`,
      { what: by, reason: "not a format Sluice reads" },
    );
  }
  return modelOf(
    source,
    (name) => source.tensors.has(name) || found?.weights.has(name) === true,
  );
}

/** Where a checkpoint's weights come from, quantized or not. */
export async function weightsOf(source: TensorSource, model: Model): Promise<ModelWeights> {
  const found = await recognize(source);
  checkShapes(model, (name) => found?.weights.get(name)?.shape ?? source.tensors.get(name)?.shape);
  return found ? storedWeights(source, found) : originalWeights(source);
}
