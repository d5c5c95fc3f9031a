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
import { copyRectangle } from "../ops/copy.ts";
import { scaleCap } from "../ops/mod.ts";
import { requestOf } from "../plan/planned.ts";
import { keepStacks, stackWindows } from "../plan/stacks.ts";
import type { Place } from "../plan/tasks.ts";
import type { TextFacts } from "../report.ts";
import type { StepCounter } from "../report.ts";
import { leastCommonMultiple } from "../plan/slices.ts";
import { embeddingTensors, embedWindows, tableRows } from "./embedding.ts";
import { HiddenStates } from "./hidden_states.ts";
import { LoadedBlock } from "./loaded_block.ts";
import { Pace } from "./pace.ts";
import type { SpillStore } from "./spill_file.ts";
import { type StreamErrors, StreamErrorSums } from "./stream_error.ts";
import { ModelTables } from "./tables.ts";
import { normalize, walkBlock } from "./walk.ts";
import { areAlike, loadProduct, type ModelWeights, type Product, sliceStep } from "./weights.ts";

/** What is measured, and where hidden states may go. */
export interface EvaluationInput extends Partial<TextFacts> {
  /** Token ids, one array per window, all of one length. */
  readonly windows: readonly Uint32Array<ArrayBuffer>[];
  /** Bytes of hidden states kept on the device. */
  readonly stateBudget: number;
  /** Most tokens that walk together, as the plan has it. */
  readonly stackTokens?: number;
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
  /** Tokens of each stack of windows. */
  readonly #stacks: readonly Uint32Array<ArrayBuffer>[];
  readonly #counter: StepCounter;
  readonly #states: readonly HiddenStates[];
  readonly #weights: readonly ModelWeights[];
  readonly #held: Scope;
  readonly #tables: ModelTables;
  /** Of two streams. */
  readonly #errors: StreamErrorSums | undefined;

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
    this.#stacks = stackWindows(evaluation, { model, device: backend });
    this.#counter = counter;
    this.#weights = weights;
    this.#states = states;
    this.#held = backend.scope();
    this.#tables = new ModelTables(model, { tokens: this.#tokens, scope: this.#held });
    this.#errors = states.length > 1 ? new StreamErrorSums(this.#held) : undefined;
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
    const { windows: [first], spill } = evaluation;
    const { hiddenSize: channels } = model;
    const walk = requestOf({ ...evaluation, seqLen: first!.length });
    const kept = keepStacks(walk, weights.length * channels, { model, device: backend });
    const states: HiddenStates[] = [];
    for (let i = 0; i < weights.length; i++) {
      states.push(await HiddenStates.open({ backend, channels, spill, ...kept }));
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
        stacks: this.#stacks,
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
      for (const [stack, { length }] of this.#stacks.entries()) {
        signal?.throwIfAborted();
        await this.#forward(graph, loaded, { states, stack });
        if (stream > 0) await this.#compare(place, stack);
        this.#counter.count(graph.block.name, length / this.#tokens);
      }
    }
  }

  async #forward(
    graph: BlockGraph,
    tensors: LoadedBlock,
    { states, stack }: { states: HiddenStates; stack: number },
  ): Promise<void> {
    using scope = this.#backend.scope();
    const x = await states.get(stack, scope);
    const y = walkBlock(graph, x, { scope, tensors, tables: this.#tables });
    await states.set(stack, y, scope);
    await this.#pace.keep();
  }

  /** Measure how far a stack's states are apart behind a block. */
  async #compare(place: number, stack: number): Promise<void> {
    using scope = this.#backend.scope();
    const [original, quantized] = this.#states as [HiddenStates, HiddenStates];
    this.#errors?.add(place, {
      original: await original.get(stack, scope),
      quantized: await quantized.get(stack, scope),
    });
  }

  /** How far the streams were apart; undefined where there is one. */
  async errors(): Promise<StreamErrors | undefined> {
    return await this.#errors?.finish(this.#backend, this.#tokens);
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
    using reading = new DisposableStack();
    const readers = this.#states.map((states) =>
      reading.use(new WindowReader(states, { backend: this.#backend, tokens: this.#tokens }))
    );
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
        const x = await readers[i]!.window(window, scope);
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

/** Takes windows out of their stacks. */
class WindowReader implements Disposable {
  readonly #states: HiddenStates;
  readonly #backend: Backend;
  readonly #tokens: number;
  #scope: Scope | undefined;
  #at: { readonly stack: number; readonly tensor: Tensor } | undefined;

  constructor(
    states: HiddenStates,
    { backend, tokens }: { readonly backend: Backend; readonly tokens: number },
  ) {
    this.#states = states;
    this.#backend = backend;
    this.#tokens = tokens;
  }

  /** A window's states, f32[T, C] in `scope` or kept elsewhere. */
  async window(window: number, scope: Scope): Promise<Tensor> {
    const tokens = this.#tokens;
    let [stack, before] = [0, 0];
    const sizeOf = (stack: number) => this.#states.rows[stack]! / tokens;
    while (before + sizeOf(stack) <= window) before += sizeOf(stack++);
    const tensor = await this.#stack(stack);
    if (sizeOf(stack) === 1) return tensor;
    const [, columns = 0] = tensor.shape;
    const x = scope.alloc("f32", [tokens, columns]);
    copyRectangle(this.#backend, {
      from: { tensor, row: (window - before) * tokens },
      to: { tensor: x },
    }, { rows: tokens, columns });
    return x;
  }

  /** A stack, which is read once for all its windows in turn. */
  async #stack(stack: number): Promise<Tensor> {
    if (this.#at?.stack === stack) return this.#at.tensor;
    this[Symbol.dispose]();
    this.#scope = this.#backend.scope();
    const tensor = await this.#states.get(stack, this.#scope);
    this.#at = { stack, tensor };
    return tensor;
  }

  [Symbol.dispose](): void {
    this.#scope?.[Symbol.dispose]();
    this.#at = undefined;
  }
}
