/**
 * Measuring a checkpoint that is there already: perplexity of one, or perplexity and KL divergence
 * of one against its original, both walking the blocks side by side. A quantized checkpoint is run
 * from its stored codes, as its runtime would. Also the windows of text that a model is measured or
 * calibrated on.
 */
import { createHash } from "node:crypto";
import type { Backend } from "./backend.ts";
import { corpusLabel, makeWindows, readCorpus, tokenize } from "./corpora/texts.ts";
import { CheckpointError, quote, UnsupportedError } from "./errors.ts";
import type { Score } from "./evaluator.ts";
import { checkShapes } from "./families/mod.ts";
import type { Model } from "./family.ts";
import { recognize } from "./formats/mod.ts";
import type { HubClient } from "./hub/client.ts";
import { type Disk, disk as realDisk } from "./io/disk.ts";
import { requestOf } from "./plan/planned.ts";
import { shapesOf } from "./plan/content.ts";
import { evaluableModel, modelOf } from "./plan/model.ts";
import { type Reporter, StepCounter, type TextFacts } from "./report.ts";
import type { Place } from "./plan/tasks.ts";
import type { TensorSource } from "./source.ts";
import { type EvaluationInput, scoreTokens, Streams, tensorsRead } from "./forward/streams.ts";
import { quantizedBy } from "./plan/usable.ts";
import { checkWalk } from "./forward/walk_memory.ts";
import { type ModelWeights, originalWeights, storedWeights } from "./forward/weights.ts";

/** Bytes of hidden states kept in memory unless told otherwise. */
export const STATE_BUDGET = 1e9;

/**
 * Tokens of a window of an evaluation unless told otherwise; fewer when the model has fewer
 * positions.
 */
export const SEQ_LEN = 2048;

/**
 * The windows of a calibration unless told otherwise: as many as in the GPTQ paper, but shorter, as
 * AWQ's program has them.
 */
export const CALIBRATION = { numSamples: 128, seqLen: 512 } as const;

/** What text a model is run on. */
export interface CorpusOptions {
  /** `sample`, the path of a text or JSONL file, or a dataset of the Hub. */
  readonly corpus?: string;
  /** Tokens per window. */
  readonly seqLen?: number;
  /**
   * The first windows of the text; absent: all of them for an evaluation, `CALIBRATION.numSamples`
   * for a calibration.
   */
  readonly numSamples?: number;
  /** Takes any windows of the text, not the first: the same ones for the same seed. */
  readonly seed?: number;
  /** Bytes of hidden states kept in memory. */
  readonly stateBudget?: number;
  /** A folder for hidden states beyond the budget. */
  readonly spillFolder?: string;
  readonly disk?: Disk;
  /** Where datasets come from: `wikitext2`, `c4`, `org/name`. */
  readonly hub?: HubClient;
  readonly report?: Reporter;
}

/** Tokens to run a model on, and how many there were. */
export interface PreparedWindows extends Omit<EvaluationInput, keyof TextFacts>, TextFacts {
  readonly seqLen: number;
  /** Tokens of the whole text. */
  readonly tokens: number;
}

/**
 * Tokenize a text with a checkpoint's tokenizer and cut it into windows to measure on: one stream,
 * no overlap, the tail dropped (the protocol of the GPTQ paper, arXiv 2210.17323).
 *
 * @throws {RequestError} there is no such text, or it is shorter than a window.
 * @throws {CheckpointError} the tokenizer knows tokens that the model does not.
 * @throws {UnsupportedError} the architecture is not known, or there is no tokenizer.json.
 */
export async function prepareWindows(
  source: TensorSource,
  options: CorpusOptions = {},
): Promise<PreparedWindows> {
  return await prepare(source, options, {
    purpose: "evaluation",
    seqLen: SEQ_LEN,
    numSamples: undefined,
  });
}

/**
 * The same for a calibration: windows that methods see the model's activations on. Events say when
 * the embedded text is used because no other was named (`sample-calibration`), and when the text
 * has fewer windows than wanted (`few-windows`).
 *
 * @throws what `prepareWindows` throws.
 */
export async function prepareCalibration(
  source: TensorSource,
  options: CorpusOptions = {},
): Promise<PreparedWindows> {
  const { numSamples = CALIBRATION.numSamples, report = () => {} } = options;
  const prepared = await prepare(source, options, { purpose: "calibration", ...CALIBRATION });
  const warn = (code: string, message: string) => report({ type: "warning", code, message });
  if (options.corpus === undefined) {
    warn(
      "sample-calibration",
      "Calibrating on the embedded sample text, which is old prose: a text like those that the " +
        "model is used for gives a better result (`calibration`).",
    );
  }
  const { corpus, windows: { length: windows }, seqLen } = prepared;
  if (windows < numSamples) {
    warn(
      "few-windows",
      `Calibrating on fewer windows than wanted: ${quote(corpus)} has ${windows} of ` +
        `${numSamples}, each of ${seqLen} tokens.`,
    );
  }
  return prepared;
}

async function prepare(
  source: TensorSource,
  options: CorpusOptions,
  usual: {
    readonly purpose: "evaluation" | "calibration";
    readonly seqLen: number;
    readonly numSamples: number | undefined;
  },
): Promise<PreparedWindows> {
  const { corpus = "sample", stateBudget = STATE_BUDGET, spillFolder, disk = realDisk } = options;
  const { hub, report, seed } = options;
  // A calibration stops before the head, which a classifier or a base model does not have.
  const { maxPositions, vocabSize } = usual.purpose === "calibration"
    ? modelOf(source)
    : await modelToEvaluate(source);
  const { numSamples = usual.numSamples, seqLen = Math.min(usual.seqLen, maxPositions) } = options;
  const reporting = report ? { report } : {};
  const tokens = await tokenize(
    source,
    await readCorpus(corpus, {
      disk,
      purpose: usual.purpose,
      ...(hub ? { hub } : {}),
      ...reporting,
    }),
    reporting,
  );
  checkTokens(tokens, { vocabSize, label: source.label });
  const windows = makeWindows(tokens, {
    seqLen,
    maxPositions,
    ...(numSamples === undefined ? {} : { maxWindows: numSamples }),
    ...(seed === undefined ? {} : { seed }),
  });
  return {
    corpus: await corpusLabel(corpus, { disk, ...(hub ? { hub } : {}) }),
    windows,
    stateBudget,
    ...(spillFolder === undefined ? {} : { spill: { disk, folder: spillFolder } }),
    seqLen,
    seed,
    available: Math.floor(tokens.length / seqLen),
    tokens: tokens.length,
    sha256: digest(windows),
  };
}

/** @throws {CheckpointError} the tokenizer gives a token that the model has no embedding of. */
function checkTokens(
  tokens: Uint32Array,
  { vocabSize, label }: { readonly vocabSize: number; readonly label: string },
): void {
  const wrong = tokens.find((token) => token >= vocabSize);
  if (wrong === undefined) return;
  throw new CheckpointError(
    `Cannot use the tokenizer.json of ${
      quote(label)
    }: it gives token ${wrong}, and the model has ` +
      `embeddings of ${vocabSize} tokens (vocab_size). Take the tokenizer that belongs to this model.`,
    { file: "tokenizer.json" },
  );
}

/** See `TextFacts.sha256`. */
function digest(windows: readonly Uint32Array<ArrayBuffer>[]): string {
  const hash = createHash("sha256");
  for (const { buffer, byteOffset, byteLength } of windows) {
    hash.update(new Uint8Array(buffer, byteOffset, byteLength));
  }
  return hash.digest("hex");
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
 * @throws {UnsupportedError} the architecture, or the way it is quantized, is not known; or the
 * device cannot hold a block.
 * @throws {CheckpointError} a tensor is missing or has a shape that the config does not imply.
 */
export async function evaluate(
  source: TensorSource,
  { backend, evaluation, reference, report = () => {}, signal }: EvaluateOptions,
): Promise<Readonly<Record<string, Score>>> {
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
  const tokens = await streams.score({ signal });
  for (const { source } of weights) await source.verified?.();
  return scoreTokens(tokens, { paired: reference !== undefined });
}

/**
 * The model of a checkpoint, whose weights may be quantized.
 *
 * @throws {UnsupportedError} Sluice does not run it, does not read the way it is quantized, or it
 * has no output head.
 * @throws {CheckpointError} the config has a value that a model cannot have, or a tensor is
 * missing.
 */
export async function modelToEvaluate(source: TensorSource): Promise<Model> {
  const found = await recognize(source);
  const by = quantizedBy(source);
  if (!found && by !== undefined) {
    throw new UnsupportedError(
      `Cannot evaluate ${source.label}: it is quantized (${by}), and Sluice does not read its files.`,
      { what: by, reason: "not a format Sluice reads" },
    );
  }
  return evaluableModel(source, {
    has: (name) => source.tensors.has(name) || found?.weights.has(name) === true,
    advice: "Measure it with a tool that runs it.",
  });
}

/** Where a checkpoint's weights come from, quantized or not. */
export async function weightsOf(source: TensorSource, model: Model): Promise<ModelWeights> {
  const found = await recognize(source);
  checkShapes(model, shapesOf(source, found?.weights ?? new Map(), model));
  return found ? storedWeights(source, found) : originalWeights(source);
}
