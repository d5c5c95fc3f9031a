/**
 * Streams of hidden states: every window of the evaluation walks the blocks once per model, the original and the quantized one side
 * by side, so that one read of the checkpoint gives perplexity and KL divergence.
 */
import type { Backend, Scope, Tensor } from "./backend.ts";
import { LOGIT_BYTES } from "./budget.ts";
import type { Score, TokenScores } from "./evaluator.ts";
import { headRows, scoreHead } from "./evaluators/head.ts";
import { EVALUATORS } from "./evaluators/mod.ts";
import { type Block, type Forward, forwardBlock, type Model } from "./family.ts";
import { HiddenStates, type SpillStore } from "./hidden_states.ts";
import { Pace } from "./pace.ts";
import type { TextFacts } from "./record.ts";
import type { StepCounter } from "./report.ts";
import { leastCommonMultiple } from "./slices.ts";
import {
  areAlike,
  LoadedBlock,
  loadProduct,
  type ModelWeights,
  type Product,
  sliceStep,
} from "./weights.ts";
import { embedWindows, rotaryTables, tableRows } from "./windows.ts";

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
 * The tensors of the original that are read to send windows through what `name` names (`advance`), or for the scores (`score`, when
 * `name` is `undefined`), in order.
 */
export function tensorsRead(
  { blocks, embedding, final, head }: Model,
  name: string | undefined,
): string[] {
  if (name === undefined) return [...final, head.weight];
  if (name === "embedding") return [embedding];
  const block = blocks.find((candidate) => candidate.name === name);
  const linears = block?.linears.flatMap(({ weight, bias }) => bias ? [weight, bias] : [weight]) ??
    [];
  return [...linears, ...block?.others ?? []];
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
  readonly #tables: Scope;
  readonly #rotary: { readonly cos: Tensor; readonly sin: Tensor };

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
    this.#tables = backend.scope();
    this.#rotary = rotaryTables(model, { tokens: this.#tokens, scope: this.#tables });
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
    return {
      backend,
      vocabSize: model.vocabSize,
      rowsPerSlice: tableRows(model, backend),
      rowStep: this.#weights.map((weights) => sliceStep(model.head.weight, weights))
        .reduce(leastCommonMultiple),
      logitBytes: LOGIT_BYTES,
    };
  }

  get #tokens(): number {
    return this.#input.windows[0]!.length;
  }

  /**
   * Send every window through what `name` names: the embedding or a block; other names change nothing.
   *
   * @param options.loaded The original's block, if it is on the device already.
   * @throws {CheckpointError} a tensor is missing.
   */
  async advance(
    name: string,
    { signal, loaded: first }: {
      signal?: AbortSignal | undefined;
      loaded?: LoadedBlock | undefined;
    } = {},
  ): Promise<void> {
    const weights = this.#weights;
    if (name === "embedding") {
      return await embedWindows(this.#model, {
        backend: this.#backend,
        windows: this.#input.windows,
        streams: this.#states.map((states, i) => ({ states, weights: weights[i]! })),
      });
    }
    const block = this.#model.blocks.find((candidate) => candidate.name === name);
    if (!block) return;
    using scope = this.#backend.scope();
    let original = first;
    for (const [stream, states] of this.#states.entries()) {
      const shared = weights[stream]!.source === weights[0]!.source ? original : undefined;
      const loaded: LoadedBlock = stream === 0 && first
        ? first
        : await LoadedBlock.load(block, weights[stream]!, { scope, shared });
      original ??= loaded;
      for (let window = 0; window < this.#input.windows.length; window++) {
        signal?.throwIfAborted();
        await this.#forward(block, loaded, { states, window });
        this.#progress(name);
      }
    }
  }

  async #forward(
    block: Block,
    loaded: LoadedBlock,
    { states, window }: { states: HiddenStates; window: number },
  ): Promise<void> {
    using scope = this.#backend.scope();
    const forward: Forward = {
      scope,
      linear: (linear, x, scope) => loaded.linear(linear, x, scope),
      weight: (name) => loaded.weight(name),
      ...this.#rotary,
    };
    const x = await states.get(window, scope);
    await states.set(window, forwardBlock(block, x, forward), scope);
    await this.#pace.keep();
  }

  /** Run the final norm and the head over every window, and compare the streams. */
  async score(
    { signal }: { signal?: AbortSignal | undefined } = {},
  ): Promise<TokenScores> {
    const { head, final } = this.#model;
    const weights = this.#weights;
    using held = this.#backend.scope();
    const finals: LoadedBlock[] = [];
    for (const stream of this.#states.keys()) {
      const shared = weights[stream]!.source === weights[0]!.source ? finals[0] : undefined;
      finals.push(
        await LoadedBlock.load({ linears: [], others: final }, weights[stream]!, {
          scope: held,
          shared,
        }),
      );
    }
    return await scoreHead({
      ...this.#headJob,
      windows: this.#input.windows,
      loadHead: async (rows, scope) => {
        signal?.throwIfAborted();
        const [original, quantized] = weights;
        const first = await loadProduct(head.weight, original!, { scope, rows });
        const slice = (product: Product) => (x: Tensor, y: Tensor) => product(x, y, 0);
        if (!quantized) return { original: slice(first) };
        const second = areAlike(head.weight, original!, quantized)
          ? first
          : await loadProduct(head.weight, quantized, { scope, rows });
        return { original: slice(first), quantized: slice(second) };
      },
      hidden: async (stream, window, scope) => {
        const i = stream === "original" ? 0 : 1;
        const x = await this.#states[i]!.get(window, scope);
        return this.#model.finish(x, { scope, weight: (name) => finals[i]!.weight(name) });
      },
      progress: () => this.#progress("head"),
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

  #progress(block: string): void {
    this.#counter.count(block);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#tables[Symbol.dispose]();
    for (const states of this.#states) await states[Symbol.asyncDispose]();
  }
}
