/**
 * How much a model's predictions change when one group of linears alone is quantized: KL divergence
 * at the head, on a few windows. The original's hidden states at a block's input are kept; what is
 * quantized walks on from there beside others, so that each block is loaded once for all of them.
 */
import type { Backend, Scope } from "../backend.ts";
import { CheckpointError, UnsupportedError } from "../errors.ts";
import { mean } from "../evaluators/perplexity.ts";
import type { Model } from "../family.ts";
import { productOf, type QuantizedSlice } from "../calibration/quantized_weight.ts";
import { embedWindows } from "../forward/embedding.ts";
import { HiddenStates } from "../forward/hidden_states.ts";
import { LoadedBlock } from "../forward/loaded_block.ts";
import { Pace } from "../pace.ts";
import { type EndedStream, headSlices, type OtherHead, scoreStates } from "../forward/scoring.ts";
import { type EvaluationInput, tensorsRead } from "../forward/streams.ts";
import { ModelTables } from "../forward/tables.ts";
import { type BlockTensors, walkBlock } from "../forward/walk.ts";
import { checkWalk, walkNeeds } from "../forward/walk_memory.ts";
import { type ModelWeights, originalWeights } from "../forward/weights.ts";
import { type BlockGraph, graphsOf } from "../graph/block_graph.ts";
import { rtn } from "../methods/rtn.ts";
import type { DeviceDType } from "../op.ts";
import { addBias } from "../ops/mod.ts";
import { refuseNaN } from "../number.ts";
import { requestOf } from "../plan/planned.ts";
import { keepStacks, stackTokens, stackWindows } from "../plan/stacks.ts";
import type { Place, QuantizeTask } from "../plan/tasks.ts";
import { type Reporter, StepCounter } from "../report.ts";
import { schemeKind } from "../schemes/mod.ts";
import { size, sizeToGive } from "../size.ts";
import type { Rows, TensorSource } from "../source.ts";
import { byteLength, matrixShape, sum } from "../tensor.ts";

/** What is quantized alone: weights of one block, or the head. */
export interface Candidate {
  /** Its number; that after the last block's for the head. */
  readonly block: number;
  readonly tasks: readonly QuantizeTask[];
}

/** What measuring takes. */
export interface DivergenceOptions {
  readonly model: Model;
  readonly backend: Backend;
  /** Windows to measure on. All hidden states stay on the device: there is no spill. */
  readonly input: EvaluationInput;
  readonly report?: Reporter;
  readonly signal?: AbortSignal | undefined;
}

/**
 * The mean KL divergence from the original, in nats per token, of each candidate, rounded to
 * nearest; never below 0.
 *
 * @param candidates In the order of their blocks.
 * @throws {UnsupportedError} the device, or the budget for hidden states, holds no candidate.
 * @throws {CheckpointError} a tensor is missing or holds NaN, or what comes of a candidate is not
 * finite.
 */
export async function divergences(
  source: TensorSource,
  candidates: readonly Candidate[],
  options: DivergenceOptions,
): Promise<number[]> {
  const { input } = options;
  const together = candidatesTogether(source, candidates, options);
  await using bench = new Bench(source, options);
  const { counter, blocks } = bench;
  const heads = candidates.filter(({ block }) => block === blocks);
  const inBlocks = candidates.filter(({ block }) => block < blocks);
  const last = inBlocks.at(-1)?.block ?? 0;
  counter.total = input.windows.length * (blocks + last +
    sum(candidates, ({ block }) => blocks - block) + bench.headSlices * candidates.length);
  const ends = await bench.embedded();
  for (let block = 0; block < blocks; block++) await bench.through(block, { streams: [ends] });
  const here = await bench.embedded();
  let at = 0;
  const found: number[] = [];
  for (let first = 0; first < inBlocks.length; first += together) {
    const batch = inBlocks.slice(first, first + together);
    for (; at < batch[0]!.block; at++) await bench.through(at, { streams: [here] });
    found.push(...await bench.measure(batch, { here, ends }));
    // On the way of the batch, the original has gone to where its last candidate begins.
    at = batch.at(-1)!.block;
  }
  for (const head of heads) found.push(await bench.measureHead(head, ends));
  await source.verified?.();
  return found;
}

/**
 * How many candidates walk together: as many as the budget and the device have room for their
 * hidden states, beside the original's at two places.
 */
function candidatesTogether(
  source: TensorSource,
  candidates: readonly Candidate[],
  { model, backend, input }: DivergenceOptions,
): number {
  const windows = requestOf({ ...input, seqLen: input.windows[0]!.length });
  const stream = windows.windows * windows.seqLen * model.hiddenSize * 4;
  const room = Math.floor(input.stateBudget / stream) - 2;
  if (room < 1) {
    const reason =
      `the hidden states of ${windows.windows} windows take ${size(3 * stream)}, and ` +
      `${size(input.stateBudget)} may be kept`;
    throw new UnsupportedError(
      `Cannot measure sensitivities: ${reason}. Give \`maxStates\` ${sizeToGive(3 * stream)}, or ` +
        "fewer windows (`sensitivitySamples`).",
      { what: "maxStates", reason },
    );
  }
  const tokens = stackTokens(windows, { model, device: backend });
  const walk = {
    backend,
    streams: [originalWeights(source)],
    windows,
    statesPerToken: 3 * model.hiddenSize,
    beside: candidates.reduce((most, one) => Math.max(most, candidateBytes(one, tokens)), 0),
  };
  checkWalk("measure sensitivities", model, walk);
  const spare = (backend.memoryBytes ?? Infinity) - walkNeeds(model, walk).needed;
  return Math.min(candidates.length, room, 1 + Math.floor(spare / stream));
}

/** Bytes of a quantized group on the device while windows go through it. */
function candidateBytes({ tasks }: Candidate, tokens: number): number {
  let [codes, most] = [0, 0];
  for (const { scheme, weight, sliceRows } of tasks) {
    const kind = schemeKind(scheme);
    const [rows, columns] = matrixShape(weight.shape);
    codes += kind.codeBytes(scheme, rows, columns);
    const slice = byteLength(weight) * sliceRows / rows +
      kind.workBytes(scheme, sliceRows, columns);
    most = Math.max(most, slice, kind.linearBytes(scheme, weight.shape, tokens));
  }
  return codes + most;
}

/** Streams of hidden states of the same windows, and what they walk through. */
class Bench implements AsyncDisposable {
  readonly counter: StepCounter;
  readonly blocks: number;
  readonly #model: Model;
  readonly #backend: Backend;
  readonly #input: EvaluationInput;
  readonly #signal: AbortSignal | undefined;
  readonly #report: Reporter;
  readonly #weights: ModelWeights;
  readonly #graphs: readonly BlockGraph[];
  readonly #stacks: readonly Uint32Array<ArrayBuffer>[];
  readonly #pace: Pace;
  readonly #held: Scope;
  readonly #tables: ModelTables;
  readonly #open = new AsyncDisposableStack();

  constructor(
    source: TensorSource,
    { model, backend, input, report = () => {}, signal }: DivergenceOptions,
  ) {
    this.counter = new StepCounter(report);
    this.#report = report;
    this.#model = model;
    this.#backend = backend;
    this.#input = input;
    this.#signal = signal;
    this.#weights = originalWeights(source);
    this.#graphs = graphsOf(model);
    this.blocks = this.#graphs.length;
    this.#stacks = stackWindows(input, { model, device: backend });
    this.#pace = new Pace(backend);
    this.#held = backend.scope();
    this.#tables = new ModelTables(model, { tokens: this.#tokens, scope: this.#held });
    this.#schedule("embedding", ...this.#graphs.keys());
  }

  /** Say what will be read next, for a source that fetches ahead. */
  #schedule(...places: (Place | undefined)[]): void {
    const names = places.flatMap((place) => tensorsRead(this.#model, place));
    this.#weights.source.schedule?.(names.map((name) => ({ name })));
  }

  get #tokens(): number {
    return this.#input.windows[0]!.length;
  }

  /** In how many slices the head is walked. */
  get headSlices(): number {
    const [backend, tokens] = [this.#backend, this.#tokens];
    return headSlices(this.#model, [this.#weights], { backend, tokens });
  }

  /** A new stream, without states. */
  async #stream(): Promise<HiddenStates> {
    const [model, backend, input] = [this.#model, this.#backend, this.#input];
    const { hiddenSize: channels } = model;
    const walk = requestOf({ ...input, seqLen: this.#tokens });
    const { rows } = keepStacks(walk, channels, { model, device: backend });
    return await HiddenStates.open({ backend, rows, channels, resident: rows.length });
  }

  /** A stream of the original at the first block's input; it is there as long as this is. */
  async embedded(): Promise<HiddenStates> {
    const states = this.#open.use(await this.#stream());
    await embedWindows(this.#model, {
      backend: this.#backend,
      stacks: this.#stacks,
      streams: [{ states, weights: this.#weights }],
      tables: this.#tables,
    });
    return states;
  }

  /**
   * Send streams through a block of the original, and begin others on its quantized linears, from
   * `here`.
   */
  async through(
    block: number,
    { streams, begin = [], here }: {
      readonly streams: readonly HiddenStates[];
      readonly begin?: readonly (Candidate & { readonly states: HiddenStates })[];
      readonly here?: HiddenStates;
    },
  ): Promise<void> {
    const graph = this.#graphs[block]!;
    using scope = this.#backend.scope();
    const loaded = await LoadedBlock.load(graph, this.#weights, { scope });
    for (const { tasks, states } of begin) {
      using own = this.#backend.scope();
      const tensors = await this.#quantized(loaded, tasks, own);
      await this.#walk(graph, tensors, { from: here!, to: states });
    }
    for (const states of streams) await this.#walk(graph, loaded, { from: states, to: states });
  }

  async #walk(
    graph: BlockGraph,
    tensors: BlockTensors,
    { from, to }: { readonly from: HiddenStates; readonly to: HiddenStates },
  ): Promise<void> {
    for (const [stack, { length }] of this.#stacks.entries()) {
      this.#signal?.throwIfAborted();
      using scope = this.#backend.scope();
      const x = await from.get(stack, scope);
      const y = walkBlock(graph, x, { scope, tensors, tables: this.#tables });
      await to.set(stack, y, scope);
      await this.#pace.keep();
      this.counter.count(graph.block.name, length / this.#tokens);
    }
  }

  /** A block in which some weights are quantized; their codes belong to `scope`. */
  async #quantized(
    loaded: LoadedBlock,
    tasks: readonly QuantizeTask[],
    scope: Scope,
  ): Promise<BlockTensors> {
    const codes = new Map<string, { task: QuantizeTask; slices: readonly QuantizedSlice[] }>();
    for (const task of tasks) {
      codes.set(task.name, { task, slices: await this.#round(task, scope) });
    }
    return {
      vector: (name) => loaded.vector(name),
      product(matrix, x, scope) {
        const own = codes.get(matrix.name);
        if (!own) return loaded.product(matrix, x, scope);
        const y = productOf(own, x, scope);
        if (matrix.bias) scope.backend.run(addBias, { b: loaded.vector(matrix.bias), y });
        return y;
      },
    };
  }

  /** Round rows of a weight to nearest, slice by slice, with its rule's options. */
  async #round(task: QuantizeTask, scope: Scope, part?: Rows): Promise<QuantizedSlice[]> {
    const { name, scheme, at, weight: { dtype, shape }, sliceRows, rule: { options } } = task;
    const [height, columns] = matrixShape(shape);
    const { from: first, to: end } = part ?? { from: 0, to: height };
    const slices: QuantizedSlice[] = [];
    for (let from = first; from < end; from += sliceRows) {
      const rows = { from, to: Math.min(end, from + sliceRows) };
      const bytes = await this.#weights.readMatrix(at, rows);
      refuseNaN({ name, dtype }, bytes, "quantize");
      using scratch = this.#backend.scope();
      const weight = scratch.alloc(dtype as DeviceDType, [rows.to - from, columns]);
      this.#backend.write(weight, bytes);
      const report = this.#report;
      const job = { names: [name], scheme, options, scope: scratch, report };
      const rounder = await rtn.open(job);
      const { quantized } = await rounder.round({ weight, scope });
      slices.push({ rows, quantized });
    }
    return slices;
  }

  /**
   * Measure candidates beside each other. Takes `here`, which is at the first one's block, to that
   * of the last.
   */
  async measure(
    batch: readonly Candidate[],
    { here, ends }: { readonly here: HiddenStates; readonly ends: HiddenStates },
  ): Promise<number[]> {
    await using open = new AsyncDisposableStack();
    const streams: (Candidate & { readonly states: HiddenStates })[] = [];
    for (const one of batch) streams.push({ ...one, states: open.use(await this.#stream()) });
    const last = batch.at(-1)!.block;
    this.#schedule(...[...this.#graphs.keys()].slice(batch[0]!.block), undefined);
    for (let block = batch[0]!.block; block < this.blocks; block++) {
      const begun = streams.filter((one) => one.block < block).map(({ states }) => states);
      const begin = streams.filter((one) => one.block === block);
      await this.through(block, {
        streams: block < last ? [...begun, here] : begun,
        begin,
        here,
      });
    }
    const others = streams.map(({ states }) => ({ states, weights: this.#weights }));
    const found = await this.#score(ends, others);
    return found.map((value, i) => finite(value, batch[i]!));
  }

  /** Measure the head alone. */
  async measureHead(candidate: Candidate, ends: HiddenStates): Promise<number> {
    const [task] = candidate.tasks as [QuantizeTask];
    const head: OtherHead = {
      rowStep: task.rowStep,
      load: async (rows, scope) => {
        const slices = await this.#round(task, scope, rows);
        return (x, y, column) => {
          for (const { rows: { from }, quantized } of slices) {
            using scratch = this.#backend.scope();
            const at = { scope: scratch, column: column + from - rows.from };
            schemeKind(quantized.scheme).linear(quantized, x, y, at);
          }
        };
      },
    };
    const [value] = await this.#score(ends, [{ states: ends, weights: this.#weights, head }]);
    return finite(value!, candidate);
  }

  /** Mean divergences of streams from the original's. */
  async #score(ends: HiddenStates, others: readonly EndedStream[]): Promise<number[]> {
    const scores = await scoreStates(this.#model, {
      backend: this.#backend,
      windows: this.#input.windows,
      tables: this.#tables,
      original: { states: ends, weights: this.#weights },
      others,
      progress: () => {
        this.counter.count("head");
        return this.#pace.keep();
      },
      signal: this.#signal,
    });
    return scores.map(({ divergence }) => mean(divergence));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#tables[Symbol.dispose]();
    this.#held[Symbol.dispose]();
    await this.#open[Symbol.asyncDispose]();
  }
}

function finite(value: number, { tasks: [task] }: Candidate): number {
  if (Number.isFinite(value)) return Math.max(0, value);
  throw new CheckpointError(
    `Cannot measure the sensitivity of "${task!.name}": what the model predicts is not finite.`,
    { tensor: task!.name },
  );
}
