/**
 * Streams of hidden states: every window of the evaluation walks the blocks once per model, the
 * original and the quantized one side by side, so that one read of the checkpoint gives perplexity
 * and KL divergence.
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import { UnsupportedError } from "../errors.ts";
import type { Score, TokenScores } from "../evaluator.ts";
import { headRows, scoreHead } from "../evaluators/head.ts";
import { EVALUATORS } from "../evaluators/mod.ts";
import type { Head, Model } from "../family.ts";
import { type BlockGraph, graphsOf } from "../graph/block_graph.ts";
import { LOGIT_BYTES } from "../limits.ts";
import { scaleCap } from "../ops/mod.ts";
import type { Place } from "../plan/tasks.ts";
import type { TextFacts } from "../report.ts";
import type { StepCounter } from "../report.ts";
import { leastCommonMultiple } from "../plan/slices.ts";
import { embeddingTensors, embedWindows, tableRows } from "./embedding.ts";
import { HiddenStates, type SpillStore } from "./hidden_states.ts";
import { LoadedBlock } from "./loaded_block.ts";
import { Pace } from "./pace.ts";
import { ModelTables } from "./tables.ts";
import { normalize, walkBlock } from "./walk.ts";
import { areAlike, loadProduct, type ModelWeights, type Product, sliceStep } from "./weights.ts";

/** What is measured, and where hidden states may go. */
export interface EvaluationInput extends Partial<TextFacts> {
  /** Token ids, one array per window, all of one length. */
  readonly windows: readonly Uint32Array<ArrayBuffer>[];
  /** Bytes of hidden states kept on the device. */
  readonly stateBudget: number;
  /** Where the rest goes; required when the budget is smaller than the states. */
  readonly spill?: SpillStore;
}

/**
 * The tensors of the original that are read to send windows through a place (`advance`), or for the
 * scores (`score`, when `place` is `undefined`), in order.
 */
export function tensorsRead(model: Model, place: Place | undefined): readonly string[] {
  if (place === "embedding") return embeddingTensors(model);
  if (place !== undefined) return graphsOf(model)[place]!.tensors;
  const { head } = model;
  return [...finalVectors(model), ...(head ? [head.linear.at.of] : [])];
}

/** Tensors of what stands behind the blocks, but for the head's weight. */
function finalVectors({ final }: Model): string[] {
  return [final?.weight, final?.bias].filter((name) => name !== undefined);
}

/**
 * The output head of a model.
 *
 * @throws {UnsupportedError} it has none.
 */
export function headOf({ head, modelType }: Model): Head {
  if (head) return head;
  throw new UnsupportedError(
    `Cannot evaluate this ${modelType} model: it has no output head (lm_head.weight). Quantize it without an evaluation.`,
    { what: "lm_head.weight", reason: "the checkpoint has no output head" },
  );
}

/** Every evaluator's numbers; of the paired ones only where two models ran. */
export function scoreTokens(
  tokens: TokenScores,
  { paired }: { paired: boolean },
): Readonly<Record<string, Score>> {
  const able = EVALUATORS.filter((evaluator) => paired || !evaluator.paired);
  return Object.fromEntries(able.map((evaluator) => [evaluator.name, evaluator.score(tokens)]));
}

/** Walks the windows through the model, in one stream per model. */
export class Streams implements AsyncDisposable {
  readonly #model: Model;
  readonly #backend: Backend;
  readonly #pace: Pace;
  readonly #input: EvaluationInput;
  readonly #counter: StepCounter;
  readonly #states: readonly HiddenStates[];
  readonly #weights: readonly ModelWeights[];
  readonly #held: Scope;
  readonly #tables: ModelTables;

  private constructor(
    model: Model,
    { backend, evaluation, counter, weights, states }: {
      backend: Backend;
      evaluation: EvaluationInput;
      counter: StepCounter;
      weights: readonly ModelWeights[];
      states: readonly HiddenStates[];
    },
  ) {
    this.#model = model;
    this.#backend = backend;
    this.#pace = new Pace(backend);
    this.#input = evaluation;
    this.#counter = counter;
    this.#weights = weights;
    this.#states = states;
    this.#held = backend.scope();
    this.#tables = new ModelTables(model, { tokens: this.#tokens, scope: this.#held });
  }

  /** A stream for each of `weights`: of one model, or of the original and the quantized. */
  static async open(
    model: Model,
    { backend, evaluation, counter, weights }: {
      backend: Backend;
      evaluation: EvaluationInput;
      counter: StepCounter;
      weights: readonly ModelWeights[];
    },
  ): Promise<Streams> {
    const states: HiddenStates[] = [];
    for (let i = 0; i < weights.length; i++) {
      states.push(
        await HiddenStates.open({
          backend,
          windows: evaluation.windows.length,
          shape: [evaluation.windows[0]!.length, model.hiddenSize],
          budget: evaluation.stateBudget / weights.length,
          ...(evaluation.spill ? { spill: evaluation.spill } : {}),
        }),
      );
    }
    const streams = new Streams(model, { backend, evaluation, counter, weights, states });
    counter.total += streams.#steps;
    return streams;
  }

  get #headJob() {
    const [backend, model] = [this.#backend, this.#model];
    const { of } = headOf(model).linear.at;
    return {
      backend,
      vocabSize: model.vocabSize,
      rowsPerSlice: tableRows(model, backend),
      rowStep: this.#weights.map((weights) => sliceStep(of, weights)).reduce(leastCommonMultiple),
      logitBytes: LOGIT_BYTES,
    };
  }

  get #tokens(): number {
    return this.#input.windows[0]!.length;
  }

  /**
   * Send every window through the embedding or a block.
   *
   * @param options.loaded The original's block, if it is on the device already.
   * @throws {CheckpointError} a tensor is missing.
   */
  async advance(
    place: Place,
    { signal, loaded: first }: {
      signal?: AbortSignal | undefined;
      loaded?: LoadedBlock | undefined;
    } = {},
  ): Promise<void> {
    const weights = this.#weights;
    if (place === "embedding") {
      return await embedWindows(this.#model, {
        backend: this.#backend,
        windows: this.#input.windows,
        streams: this.#states.map((states, i) => ({ states, weights: weights[i]! })),
        tables: this.#tables,
      });
    }
    const graph = graphsOf(this.#model)[place]!;
    using scope = this.#backend.scope();
    let original = first;
    for (const [stream, states] of this.#states.entries()) {
      const shared = weights[stream]!.source === weights[0]!.source ? original : undefined;
      const loaded: LoadedBlock = stream === 0 && first
        ? first
        : await LoadedBlock.load(graph, weights[stream]!, { scope, shared });
      original ??= loaded;
      for (let window = 0; window < this.#input.windows.length; window++) {
        signal?.throwIfAborted();
        await this.#forward(graph, loaded, { states, window });
        this.#counter.count(graph.block.name);
      }
    }
  }

  async #forward(
    graph: BlockGraph,
    tensors: LoadedBlock,
    { states, window }: { states: HiddenStates; window: number },
  ): Promise<void> {
    using scope = this.#backend.scope();
    const x = await states.get(window, scope);
    const y = walkBlock(graph, x, { scope, tensors, tables: this.#tables });
    await states.set(window, y, scope);
    await this.#pace.keep();
  }

  /** Run the final norm and the head over every window, and compare the streams. */
  async score(
    { signal }: { signal?: AbortSignal | undefined } = {},
  ): Promise<TokenScores> {
    const { final } = this.#model;
    const { linear: { at: { of: name } }, times = 1, softcap: cap = 0 } = headOf(this.#model);
    const weights = this.#weights;
    using held = this.#backend.scope();
    const ends: LoadedBlock[] = [];
    for (const stream of this.#states.keys()) {
      const shared = weights[stream]!.source === weights[0]!.source ? ends[0] : undefined;
      const content = { matrices: [], vectors: finalVectors(this.#model) };
      ends.push(await LoadedBlock.load(content, weights[stream]!, { scope: held, shared }));
    }
    return await scoreHead({
      ...this.#headJob,
      windows: this.#input.windows,
      loadHead: async (rows, scope) => {
        signal?.throwIfAborted();
        const [original, quantized] = weights;
        const logits = (product: Product) => (x: Tensor, y: Tensor) => {
          product(x, y, 0);
          if (times !== 1 || cap !== 0) this.#backend.run(scaleCap, { x: y }, { times, cap });
        };
        const first = await loadProduct(name, original!, { scope, rows });
        if (!quantized) return { original: logits(first) };
        const second = areAlike(name, original!, quantized)
          ? first
          : await loadProduct(name, quantized, { scope, rows });
        return { original: logits(first), quantized: logits(second) };
      },
      hidden: async (stream, window, scope) => {
        const i = stream === "original" ? 0 : 1;
        const x = await this.#states[i]!.get(window, scope);
        if (!final) return x;
        return normalize(x, final, { scope, tensors: ends[i]!, tables: this.#tables });
      },
      progress: () => {
        this.#counter.count("head");
        return this.#pace.keep();
      },
    });
  }

  /** Steps of windows in the whole evaluation. */
  get #steps(): number {
    const { blocks, vocabSize } = this.#model;
    const windows = this.#input.windows.length;
    const rows = headRows(this.#headJob, this.#tokens);
    const slices = Math.ceil(vocabSize / rows);
    return windows * (blocks.length * this.#states.length + slices);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#tables[Symbol.dispose]();
    this.#held[Symbol.dispose]();
    for (const states of this.#states) await states[Symbol.asyncDispose]();
  }
}
