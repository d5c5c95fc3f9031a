/**
 * The windows of text that a model is measured or calibrated on: a text that is read, tokenized and
 * cut.
 */
import { hashWindows } from "./hash.ts";
import { CheckpointError, quote } from "./errors.ts";
import type { EvaluationInput } from "./forward/streams.ts";
import type { HubClient } from "./hub/client.ts";
import { type Disk, disk as realDisk } from "./io/disk.ts";
import { modelOf, modelToEvaluate } from "./plan/model.ts";
import type { Reporter, TextFacts } from "./report.ts";
import type { TensorSource } from "./source.ts";

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
  // Here, because most plans need no text.
  const { corpusLabel, makeWindows, readCorpus, tokenize } = await import("./corpora/texts.ts");
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
    sha256: await hashWindows(windows),
  };
}

/**
 * Some of the windows.
 *
 * @param take By the number of a window.
 */
export async function windowsOf(
  prepared: PreparedWindows,
  take: (window: number) => boolean,
): Promise<PreparedWindows> {
  const windows = prepared.windows.filter((_, window) => take(window));
  return { ...prepared, windows, sha256: await hashWindows(windows) };
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
