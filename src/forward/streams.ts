/**
 * Streams of hidden states: every window of the evaluation walks the blocks once per model, the
 * original and those that were quantized side by side, so that one read of the checkpoint gives
 * perplexity and KL divergence of each.
 */
import type { Backend, Scope } from "../backend.ts";
import type { Carried, CarryReader, CarryWriter } from "../carry.ts";
import type { Score, TokenScores } from "../evaluator.ts";
import { EVALUATORS } from "../evaluators/mod.ts";
import type { Model } from "../family.ts";
import { type BlockGraph, graphsOf } from "../graph/block_graph.ts";
import { requestOf } from "../plan/planned.ts";
import { keepStacks, stackWindows } from "../plan/stacks.ts";
import type { Place } from "../plan/tasks.ts";
import type { TextFacts } from "../report.ts";
import type { StepCounter } from "../report.ts";
import { embeddingTensors, embedWindows } from "./embedding.ts";
import { HiddenStates } from "./hidden_states.ts";
import { LoadedBlock } from "./loaded_block.ts";
import { Pace } from "../pace.ts";
import { finalVectors, headSlices, scoreStates } from "./scoring.ts";
import type { SpillStore } from "./spill_file.ts";
import { type StreamErrors, StreamErrorSums } from "./stream_error.ts";
import { ModelTables } from "./tables.ts";
import { walkBlock } from "./walk.ts";
import type { ModelWeights } from "./weights.ts";

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

/** Every evaluator's numbers; of the paired ones only where two models ran. */
export function scoreTokens(
  tokens: TokenScores,
  { paired }: { paired: boolean },
): Readonly<Record<string, Score>> {
  const able = EVALUATORS.filter((evaluator) => paired || !evaluator.paired);
  return Object.fromEntries(able.map((evaluator) => [evaluator.name, evaluator.score(tokens)]));
}

/** What streams are opened with. */
export interface StreamsOptions {
  readonly backend: Backend;
  readonly evaluation: EvaluationInput;
  readonly counter: StepCounter;
  /** Of one model, or of the original and those that were quantized. */
  readonly weights: readonly ModelWeights[];
  /** Whether it is measured how far each stream is from the first behind each block. */
  readonly compare?: boolean;
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
  /** Of each stream but the first, where it is to be told how far it is from that. */
  readonly #errors: readonly StreamErrorSums[];

  private constructor(
    model: Model,
    { backend, evaluation, counter, weights, compare = false, states }: StreamsOptions & {
      readonly states: readonly HiddenStates[];
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
    const compared = compare ? weights.slice(1) : [];
    this.#errors = compared.map(() =>
      new StreamErrorSums(this.#held, this.#tokens * evaluation.windows.length)
    );
  }

  /** A stream for each of `weights`. */
  static async open(model: Model, options: StreamsOptions): Promise<Streams> {
    const { backend, evaluation, counter, weights } = options;
    const { windows: [first], spill } = evaluation;
    const { hiddenSize: channels } = model;
    const walk = requestOf({ ...evaluation, seqLen: first!.length });
    const kept = keepStacks(walk, weights.length * channels, { model, device: backend });
    const states: HiddenStates[] = [];
    for (let i = 0; i < weights.length; i++) {
      states.push(await HiddenStates.open({ backend, channels, spill, ...kept }));
    }
    const streams = new Streams(model, { ...options, states });
    counter.total += streams.#steps;
    return streams;
  }

  get #tokens(): number {
    return this.#input.windows[0]!.length;
  }

  /**
   * Send every window through the embedding or a block.
   *
   * @param options.loaded The original's block, if it is on the device already.
   * @param options.only Streams beside the first that go, by number from 1; all unless given.
   * @throws {CheckpointError} a tensor is missing.
   */
  async advance(
    place: Place,
    { signal, loaded: first, only }: {
      signal?: AbortSignal | undefined;
      loaded?: LoadedBlock | undefined;
      only?: readonly number[] | undefined;
    } = {},
  ): Promise<void> {
    const weights = this.#weights;
    const going = [...this.#states.entries()]
      .filter(([stream]) => stream === 0 || !only || only.includes(stream));
    if (place === "embedding") {
      return await embedWindows(this.#model, {
        backend: this.#backend,
        stacks: this.#stacks,
        streams: going.map(([stream, states]) => ({ states, weights: weights[stream]! })),
        tables: this.#tables,
      });
    }
    const graph = graphsOf(this.#model)[place]!;
    using held = this.#backend.scope();
    const original = first ?? await LoadedBlock.load(graph, weights[0]!, { scope: held });
    for (const [stream, states] of going) {
      using scope = this.#backend.scope();
      const shared = weights[stream]!.source === weights[0]!.source ? original : undefined;
      const loaded = stream === 0
        ? original
        : await LoadedBlock.load(graph, weights[stream]!, { scope, shared });
      for (const [stack, { length }] of this.#stacks.entries()) {
        signal?.throwIfAborted();
        await this.#forward(graph, loaded, { place, stream, states, stack });
        this.#counter.count(graph.block.name, length / this.#tokens);
      }
    }
  }

  async #forward(
    graph: BlockGraph,
    tensors: LoadedBlock,
    { place, stream, states, stack }: {
      place: number;
      stream: number;
      states: HiddenStates;
      stack: number;
    },
  ): Promise<void> {
    using scope = this.#backend.scope();
    const x = await states.get(stack, scope);
    const y = walkBlock(graph, x, { scope, tensors, tables: this.#tables });
    const errors = this.#errors[stream - 1];
    if (errors) {
      const original = await this.#states[0]!.get(stack, scope);
      errors.add(place, { original, quantized: y });
    }
    await states.set(stack, y, scope);
    await this.#pace.keep();
  }

  /**
   * What a stream beside the first goes on from, with the first: as it would be if the two were
   * alone.
   */
  carried(stream: number): Carried {
    const own = [this.#states[0]!, this.#states[stream]!];
    const errors = this.#errors[stream - 1];
    return {
      save: async (to: CarryWriter) => {
        for (const states of own) await states.save(to);
        await errors?.save(to);
      },
      restore: async (from: CarryReader) => {
        for (const states of own) await states.restore(from);
        await errors?.restore(from);
      },
    };
  }

  /** How far each stream beside the first was from it; nothing where that was not measured. */
  async errors(): Promise<StreamErrors[]> {
    return await Array.fromAsync(
      this.#errors,
      (errors) => errors.finish(this.#backend, this.#tokens),
    );
  }

  /**
   * Run the final norm and the head over every window, and compare the streams: scores of each
   * beside the first, or of that where it is alone.
   */
  async score(
    { signal }: { signal?: AbortSignal | undefined } = {},
  ): Promise<TokenScores[]> {
    const [original, ...others] = this.#states.map((states, i) => ({
      states,
      weights: this.#weights[i]!,
    }));
    return await scoreStates(this.#model, {
      backend: this.#backend,
      windows: this.#input.windows,
      tables: this.#tables,
      original: original!,
      others,
      progress: () => {
        this.#counter.count("head");
        return this.#pace.keep();
      },
      signal,
    });
  }

  /** Steps of windows in the whole evaluation. */
  get #steps(): number {
    const { blocks } = this.#model;
    const windows = this.#input.windows.length;
    const slices = headSlices(this.#model, this.#weights, {
      backend: this.#backend,
      tokens: this.#tokens,
    });
    const compared = Math.max(1, this.#states.length - 1);
    return windows * (blocks.length * this.#states.length + compared * slices);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#tables[Symbol.dispose]();
    this.#held[Symbol.dispose]();
    for (const states of this.#states) await states[Symbol.asyncDispose]();
  }
}
