/**
 * Calibration: the windows of a text walk the blocks, and stop at every stage before its linears,
 * so that these can be quantized for the inputs that the quantized model before them gives. With
 * error propagation the original model's hidden states walk along. No product of a token with a
 * weight is computed twice.
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import type { Carried, CarryReader, CarryWriter } from "../carry.ts";
import type { Model, State } from "../family.ts";
import { embedWindows } from "../forward/embedding.ts";
import type { HiddenStates } from "../forward/hidden_states.ts";
import { Pace } from "../pace.ts";
import type { States } from "../forward/states.ts";
import { ModelTables } from "../forward/tables.ts";
import { type BlockTensors, walk } from "../forward/walk.ts";
import type { ModelWeights } from "../forward/weights.ts";
import { type BlockGraph, graphsOf, type Stage } from "../graph/block_graph.ts";
import { originalPlace, placeOf, stateWidths } from "../graph/stops.ts";
import type { ObserveOptions } from "../observer.ts";
import { scaleColumns } from "../linalg/channels.ts";
import { sum } from "../tensor.ts";
import type { Streams } from "../graph/stops.ts";
import { gapAt } from "./gap.ts";
import { type Gathering, handOver, type OpenGathering, type ShardExchange } from "./gathering.ts";
import type { CalibrationInput } from "./input.ts";
import { type Keeping, KeptStates } from "./kept_states.ts";
import type { Gap } from "./propagation.ts";
import { TrainingWindows } from "./training_windows.ts";
import { requestOf } from "../plan/planned.ts";
import { keepStacks, shardWindows } from "../plan/stacks.ts";
import type { StepCounter } from "../report.ts";

/** One way of all windows from a stop to the next. */
export interface Pass {
  readonly graph: BlockGraph;
  readonly quantized: BlockTensors;
  /** Required when the original's hidden states walk along. */
  readonly original?: BlockTensors;
  /**
   * f32[C]: what the kept input of the stage that windows stand at is multiplied by, because scales
   * were moved to what made it.
   */
  readonly inputFactor?: Tensor | undefined;
  /** The stage they stop at; none at the end of a block. */
  readonly to?: Stage;
  /** Called with the input of `to`'s linears, a stack of windows after the other: f32[T, C]. */
  readonly observe?: (x: Tensor, gap: Gap | undefined) => void | Promise<void>;
  readonly signal?: AbortSignal | undefined;
}

/** What {@linkcode Calibration.look} looks at. */
export interface Look extends Pick<Pass, "graph" | "inputFactor" | "signal"> {
  readonly tensors: BlockTensors;
}

/** What windows are gathered by at a stop. */
export interface Gathers<G extends Gathering> {
  readonly open: OpenGathering<G>;
  /** Where what comes of all windows is. */
  readonly scope: Scope;
}

/** What a calibration is opened with. */
export interface CalibrationOptions extends Streams {
  /** Steps of windows on which blocks are trained, of all blocks. */
  readonly trainingSteps?: number;
  readonly backend: Backend;
  readonly input: CalibrationInput;
  /** Counts a step whenever a window has gone one. */
  readonly counter: StepCounter;
  /** Where others hold shards of the windows: what all of them gather comes from there. */
  readonly exchange?: ShardExchange | undefined;
}

/** The windows of a calibration on their way through a model. */
export class Calibration implements AsyncDisposable, Carried {
  readonly #model: Model;
  readonly #backend: Backend;
  readonly #input: CalibrationInput;
  /** Tokens of each stack of windows. */
  readonly #stacks: readonly Uint32Array<ArrayBuffer>[];
  /** The numbers of each shard's stacks. */
  readonly #shards: readonly (readonly number[])[];
  readonly #exchange: ShardExchange | undefined;
  /** Shards whose windows are here. */
  #held: readonly number[];
  readonly #counter: StepCounter;
  readonly #scope: Scope;
  readonly #tables: ModelTables;
  readonly #pace: Pace;
  readonly #keeping: Keeping;
  readonly #quantized: KeptStates;
  readonly #original: KeptStates | undefined;
  /** The stage that windows stand at; none at the beginning of a block. */
  #at: Stage | undefined;
  /** What the original block makes of each window, while the block is trained for it. */
  #targets: KeptStates | undefined;

  constructor(model: Model, options: CalibrationOptions) {
    const { backend, input, propagate, tuned = false, trainingSteps = 0, counter } = options;
    this.#model = model;
    this.#backend = backend;
    this.#input = input;
    const shards = shardWindows(input, { model, device: backend });
    this.#stacks = shards.flat();
    let count = 0;
    this.#shards = shards.map((own) => own.map(() => count++));
    this.#exchange = options.exchange;
    this.#held = [...shards.keys()];
    this.#counter = counter;
    this.#scope = backend.scope();
    this.#pace = new Pace(backend);
    const [first] = input.windows;
    this.#tables = new ModelTables(model, { tokens: first!.length, scope: this.#scope });
    const perToken = stateWidths(model, { propagate, tuned }).kept;
    const { spill } = input;
    const walk = requestOf({ ...input, seqLen: first!.length });
    // Of as many stacks as fit, everything is kept; of the others nothing.
    this.#keeping = { backend, spill, ...keepStacks(walk, perToken, { model, device: backend }) };
    this.#quantized = new KeptStates(this.#keeping);
    this.#original = propagate ? new KeptStates(this.#keeping) : undefined;
    const passes = graphsOf(model).reduce((sum, { stages }) => sum + stages.length + 1, 0);
    counter.total += input.windows.length * passes + trainingSteps;
  }

  /** Tokens of all windows, and of each. */
  get length(): Pick<ObserveOptions, "tokens"> & { readonly windowTokens: number } {
    const { windows } = this.#input;
    const windowTokens = windows[0]!.length;
    return { tokens: windows.length * windowTokens, windowTokens };
  }

  /** Tokens of the largest stack of windows. */
  get stackTokens(): number {
    return this.#stacks[0]!.length;
  }

  /** How many shards the windows are in. */
  get shards(): number {
    return this.#shards.length;
  }

  /** Some windows were trained on. */
  count({ block }: BlockGraph, windows: number): void {
    this.#counter.count(block.name, windows);
  }

  /** Look up every window's tokens: of these, and of `others` with the same windows and stacks. */
  async embed(weights: ModelWeights, others: readonly Calibration[] = []): Promise<void> {
    const inputs = await Array.fromAsync([this, ...others], (one) => one.#inputs());
    await embedWindows(this.#model, {
      backend: this.#backend,
      stacks: this.#stacks,
      streams: inputs.flat().map((states) => ({ states, weights })),
      tables: this.#tables,
    });
    for (const [shard, stacks] of this.#shards.entries()) {
      if (this.#held.includes(shard)) continue;
      for (const states of inputs.flat()) stacks.forEach((stack) => states.drop(stack));
    }
  }

  /** Whether windows of another walk in the same stacks. */
  isInStep(other: Calibration): boolean {
    const sizes = ({ length }: Uint32Array) => length;
    return this.#input.windows === other.#input.windows &&
      String(this.#stacks.map(sizes)) === String(other.#stacks.map(sizes));
  }

  /** What is kept of windows before a block: its input, in each stream. */
  async #inputs(): Promise<HiddenStates[]> {
    const { blocks: [first], hiddenSize } = this.#model;
    const inputs: HiddenStates[] = [];
    for (const kept of [this.#quantized, this.#original]) {
      if (kept) inputs.push(await kept.open(first!.input, hiddenSize));
    }
    return inputs;
  }

  /** Of windows that stand before a block. */
  async save(to: CarryWriter): Promise<void> {
    for (const shard of this.#held) await this.saveShard(shard, to);
  }

  async restore(from: CarryReader): Promise<void> {
    for (const shard of this.#held) await this.restoreShard(shard, from);
  }

  /** Of a shard whose windows stand before a block. */
  async saveShard(shard: number, to: CarryWriter): Promise<void> {
    for (const states of await this.#inputs()) await states.save(to, this.#shards[shard]!);
  }

  async restoreShard(shard: number, from: CarryReader): Promise<void> {
    for (const states of await this.#inputs()) await states.restore(from, this.#shards[shard]!);
  }

  /**
   * Walk some shards alone, of which either the tokens are to be looked up or what was saved is to
   * be restored: nothing is left of what was kept.
   */
  async walkAlone(shards: readonly number[]): Promise<void> {
    await this.#forgetTraining();
    for (const kept of [this.#quantized, this.#original]) await kept?.drop();
    this.#at = undefined;
    this.#held = shards;
  }

  /** Keep the inputs of the block that windows stand before, until {@linkcode passTrained}. */
  hold({ block }: BlockGraph): void {
    this.#quantized.hold(block.input);
  }

  /**
   * Bring the original's windows to the end of the block, where they are what it is trained for;
   * without them, those that the original block makes of the quantized model's. Of these windows
   * only the block's inputs are left.
   */
  async aim(
    { graph, original, signal }: Pick<Pass, "graph" | "signal"> & {
      readonly original: BlockTensors;
    },
  ): Promise<TrainingWindows> {
    const { input, output } = graph.block;
    const from = this.#original && this.#at ? originalPlace(graph, this.#at) : 0;
    await this.#quantized.drop();
    this.#at = undefined;
    const source = this.#original ?? this.#quantized;
    const targets = this.#original ?? new KeptStates(this.#keeping);
    this.#targets = targets;
    await this.#toEnd({ graph, tensors: original, signal }, { source, from, targets });
    return new TrainingWindows({
      inputs: this.#quantized.get(input),
      targets: targets.get(output),
      tables: this.#tables,
    });
  }

  /** Forget what a block was trained for, and send every window through it. */
  async passTrained({ graph, quantized, signal }: Omit<Pass, "to" | "observe">): Promise<void> {
    await this.#forgetTraining();
    const own = this.#quantized;
    await this.#toEnd({ graph, tensors: quantized, signal }, {
      source: own,
      targets: own,
      passed: (tokens) => this.count(graph, tokens / this.#tables.tokens),
    });
    for (const kept of [this.#quantized, this.#original]) await kept?.settle(graph, undefined);
  }

  /** Forget what a block was trained for, and hold no inputs of it. */
  async #forgetTraining(): Promise<void> {
    if (this.#targets !== this.#original) await this.#targets?.[Symbol.asyncDispose]();
    this.#targets = undefined;
    this.#quantized.hold();
  }

  /** Send every window from a place of a block to its end, and keep what it is there. */
  async #toEnd(
    { graph, tensors, signal }: Pick<Pass, "graph" | "signal"> & { readonly tensors: BlockTensors },
    { source, from = 0, targets, passed }: {
      readonly source: KeptStates;
      readonly from?: number;
      readonly targets: KeptStates;
      /** Told of the tokens that have gone. */
      readonly passed?: (tokens: number) => void;
    },
  ): Promise<void> {
    const place = { from, to: graph.nodes.length };
    await targets.expect(graph, place.to);
    for (const [stack, { length }] of this.#stacks.entries()) {
      signal?.throwIfAborted();
      using scope = this.#backend.scope();
      const given = await source.load(stack, scope);
      const forward = { scope, tensors, tables: this.#tables };
      const states = walk(graph, place, { given, forward });
      await targets.store(stack, { given, states, scope });
      await this.#pace.keep();
      passed?.(length);
    }
  }

  /** Send every window from one stop to the next. */
  async pass(pass: Pass): Promise<void> {
    await this.#walkAll(pass, async (walkShard) => {
      for (const shard of this.#held) await walkShard(shard, pass.observe);
    });
  }

  /** Send every window from one stop to a stage; what was gathered there of all windows. */
  async gather<G extends Gathering>(
    pass: Omit<Pass, "observe"> & { readonly to: Stage },
    gathers: Gathers<G>,
  ): Promise<G> {
    const stop = `${pass.graph.stages.indexOf(pass.to)}`;
    return await this.#walkAll(pass, (walkShard) => this.#gatherShards(stop, gathers, walkShard));
  }

  /** Send windows from one stop to the next, a shard whenever it is asked for. */
  async #walkAll<T>(
    pass: Pass,
    all: (walkShard: (shard: number, observe: Pass["observe"]) => Promise<void>) => Promise<T>,
  ): Promise<T> {
    const { graph, to, signal } = pass;
    const from = this.#at;
    await this.#quantized.expect(graph, placeOf(graph, to));
    await this.#original?.expect(graph, originalPlace(graph, to));
    const found = await all(async (shard, observe) => {
      for (const stack of this.#shards[shard]!) {
        signal?.throwIfAborted();
        await this.#walk(stack, { ...pass, ...(observe ? { observe } : {}), from });
        await this.#pace.keep();
        this.#counter.count(graph.block.name, this.#stacks[stack]!.length / this.#tables.tokens);
      }
    });
    this.#at = to;
    for (const kept of [this.#quantized, this.#original]) await kept?.settle(graph, to);
    return found;
  }

  /**
   * Look once more at the inputs of the stage that windows stand at, as scales that were moved
   * since have made them; what was gathered of all windows. Nothing is multiplied by a weight, and
   * no window moves.
   */
  async look<G extends Gathering>(
    { graph, tensors, inputFactor, signal }: Look,
    gathers: Gathers<G>,
  ): Promise<G> {
    const stage = this.#at!;
    const stop = `${graph.stages.indexOf(stage)}-moved`;
    return await this.#gatherShards(stop, gathers, async (shard, observe) => {
      if (!observe) return;
      for (const stack of this.#shards[shard]!) {
        signal?.throwIfAborted();
        using scope = this.#backend.scope();
        const given = await this.#quantized.load(stack, scope);
        scaleInput(given, { stage, inputFactor, scope });
        const place = { from: stage.at, to: stage.at };
        const forward = { scope, tensors, tables: this.#tables };
        await observe(walk(graph, place, { given, forward }).get(stage.input), undefined);
        await this.#pace.keep();
      }
    });
  }

  /** Have every shard that is here seen, and add up what was gathered of all shards, in order. */
  async #gatherShards<G extends Gathering>(
    stop: string,
    { open, scope }: Gathers<G>,
    seeShard: (shard: number, observe: Pass["observe"]) => Promise<void>,
  ): Promise<G> {
    const all = open({ scope, firstToken: 0 });
    const exchange = this.#exchange;
    if (this.#shards.length === 1 && !exchange) {
      await seeShard(0, (x, gap) => all.add(x, gap));
      return all;
    }
    for (const shard of this.#held) {
      // What a worker that died has left of it counts, but its windows must come along.
      if (await exchange?.has(stop, shard)) {
        await seeShard(shard, undefined);
        continue;
      }
      using own = this.#backend.scope();
      const before = this.#shards.slice(0, shard).flat();
      const firstToken = sum(before, (stack) => this.#stacks[stack]!.length);
      const some = open({ scope: own, firstToken });
      await seeShard(shard, (x, gap) => some.add(x, gap));
      if (exchange) await exchange.put(stop, shard, (to) => some.save(to));
      else await handOver(some, all);
    }
    for (const shard of exchange ? this.#shards.keys() : []) {
      await exchange!.take(stop, shard, (from) => all.restore(from));
    }
    return all;
  }

  async #walk(stack: number, pass: Pass & { readonly from: Stage | undefined }): Promise<void> {
    using scope = this.#backend.scope();
    const { graph, from, to, observe, inputFactor } = pass;
    const given = await this.#quantized.load(stack, scope);
    if (from) scaleInput(given, { stage: from, inputFactor, scope });
    const states = walk(graph, { from: from?.at ?? 0, to: placeOf(graph, to) }, {
      given,
      forward: { scope, tensors: pass.quantized, tables: this.#tables },
    });
    const gap = this.#original && await this.#walkOriginal(stack, { ...pass, states, scope });
    if (to) await observe?.(states.get(to.input), gap);
    await this.#quantized.store(stack, { given, states, scope });
  }

  /**
   * Bring the original's states as far as they are needed, and put them beside the quantized
   * model's.
   */
  async #walkOriginal(
    stack: number,
    { graph, from, to, original: tensors, states: quantized, scope }: Pass & {
      readonly from: Stage | undefined;
      readonly states: States;
      readonly scope: Scope;
    },
  ): Promise<Gap | undefined> {
    const kept = this.#original!;
    if (!tensors) throw new RangeError("Cannot walk the original: its weights are missing");
    const given = await kept.load(stack, scope);
    const [begin, end] = [from ? originalPlace(graph, from) : 0, originalPlace(graph, to)];
    const states = walk(graph, { from: begin, to: end }, {
      given,
      forward: { scope, tensors, tables: this.#tables },
    });
    const gap = to && gapAt(graph, to, { original: states, quantized, scope });
    await kept.store(stack, { given, states, scope });
    return gap;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#tables[Symbol.dispose]();
    this.#scope[Symbol.dispose]();
    await this.#quantized[Symbol.asyncDispose]();
    await this.#original?.[Symbol.asyncDispose]();
    await this.#targets?.[Symbol.asyncDispose]();
  }
}

/** The kept input of a stage, as scales that were moved since have made it. */
function scaleInput(
  given: Map<State, Tensor>,
  { stage: { input }, inputFactor, scope }: {
    readonly stage: Stage;
    readonly inputFactor: Tensor | undefined;
    readonly scope: Scope;
  },
): void {
  const x = given.get(input);
  if (x && inputFactor) given.set(input, scaleColumns(x, inputFactor, scope));
}
