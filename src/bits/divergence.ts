/**
 * How much a model's predictions change when one group of linears alone is quantized: KL divergence
 * at the head, on a few windows. The original's hidden states at a block's input are kept; what is
 * quantized walks on from there beside others, so that each block is loaded once for all of them.
 */
import type { Scope } from "../backend.ts";
import { productOf, type QuantizedSlice } from "../calibration/quantized_weight.ts";
import { mean } from "../evaluators/perplexity.ts";
import type { HiddenStates } from "../forward/hidden_states.ts";
import type { LoadedBlock } from "../forward/loaded_block.ts";
import { type EndedStream, headSlices, type OtherHead, scoreStates } from "../forward/scoring.ts";
import type { BlockTensors } from "../forward/walk.ts";
import { checkWalk, walkNeeds } from "../forward/walk_memory.ts";
import { originalWeights } from "../forward/weights.ts";
import { addBias } from "../ops/mod.ts";
import { requestOf } from "../plan/planned.ts";
import { stackTokens } from "../plan/stacks.ts";
import type { QuantizeTask } from "../plan/tasks.ts";
import type { TensorSource } from "../source.ts";
import { sum } from "../tensor.ts";
import {
  Bench,
  type BenchOptions,
  type Candidate,
  candidateBytes,
  type DeviceNeeds,
  finite,
  roomForStreams,
} from "./bench.ts";

/**
 * The mean KL divergence from the original, in nats per token, of each candidate, rounded to
 * nearest; never below 0.
 *
 * @param candidates In the order of their blocks.
 * @param options.known Of the first candidates, as an earlier measurement had them.
 * @param options.keep Called with those of the first candidates, whenever more are known.
 * @throws {UnsupportedError} the device, or the budget for hidden states, holds no candidate.
 * @throws {CheckpointError} a tensor is missing or holds NaN, or what comes of a candidate is not
 * finite.
 */
export async function divergences(
  source: TensorSource,
  candidates: readonly Candidate[],
  { known = [], keep, ...options }: BenchOptions & {
    readonly known?: readonly number[];
    readonly keep?: ((found: readonly number[]) => Promise<void>) | undefined;
  },
): Promise<number[]> {
  const { input } = options;
  const { together } = divergenceNeeds(source, candidates, options);
  await using bench = new Bench(source, options);
  const { counter, graphs: { length: blocks } } = bench;
  const heads = candidates.filter(({ block }) => block === blocks);
  const inBlocks = candidates.filter(({ block }) => block < blocks);
  const last = inBlocks.at(-1)?.block ?? 0;
  counter.total = input.windows.length * (blocks + last +
    sum(candidates, ({ block }) => blocks - block) + slicesOfHead(bench) * candidates.length);
  const ends = await bench.embedded();
  for (let block = 0; block < blocks; block++) await through(bench, block, { streams: [ends] });
  const here = await bench.embedded();
  let at = 0;
  const found: number[] = [...known];
  for (let first = known.length; first < inBlocks.length; first += together) {
    const batch = inBlocks.slice(first, first + together);
    for (; at < batch[0]!.block; at++) await through(bench, at, { streams: [here] });
    found.push(...await measure(bench, batch, { here, ends }));
    // On the way of the batch, the original has gone to where its last candidate begins.
    at = batch.at(-1)!.block;
    await keep?.(found);
  }
  for (const head of heads.slice(Math.max(0, known.length - inBlocks.length))) {
    found.push(await measureHead(bench, head, ends));
    await keep?.(found);
  }
  await source.verified?.();
  return found;
}

/**
 * How many candidates walk together: as many as the budget and the device have room for their
 * hidden states, beside the original's at two places; and the bytes on the device with them.
 *
 * @throws {UnsupportedError} the device, or the budget for hidden states, holds no candidate.
 */
export function divergenceNeeds(
  source: TensorSource,
  candidates: readonly Candidate[],
  { model, backend, input }: BenchOptions,
): DeviceNeeds {
  const windows = requestOf({ ...input, seqLen: input.windows[0]!.length });
  const { stream, room } = roomForStreams(3, { model, input });
  const tokens = stackTokens(windows, { model, device: backend });
  const walk = {
    backend,
    streams: [originalWeights(source)],
    windows,
    statesPerToken: 3 * model.hiddenSize,
    beside: candidates.reduce((most, one) => Math.max(most, candidateBytes(one, tokens)), 0),
  };
  checkWalk("measure sensitivities", model, walk);
  const { needed } = walkNeeds(model, walk);
  const spare = (backend.memoryBytes ?? Infinity) - needed;
  const together = Math.min(candidates.length, room - 2, 1 + Math.floor(spare / stream));
  return { together, bytes: needed + Math.max(0, together - 1) * stream };
}

/** In how many slices the head is walked. */
function slicesOfHead({ model, weights, backend, tokens }: Bench): number {
  return headSlices(model, [weights], { backend, tokens });
}

/**
 * Send streams through a block of the original, and begin others on its quantized linears, from
 * `here`.
 */
async function through(
  bench: Bench,
  block: number,
  { streams, begin = [], here }: {
    readonly streams: readonly HiddenStates[];
    readonly begin?: readonly (Candidate & { readonly states: HiddenStates })[];
    readonly here?: HiddenStates;
  },
): Promise<void> {
  using scope = bench.backend.scope();
  const loaded = await bench.load(block, scope);
  for (const { tasks, states } of begin) {
    using own = bench.backend.scope();
    const tensors = await withQuantized(bench, { loaded, tasks, scope: own });
    await bench.walk(block, tensors, { from: here!, to: states });
  }
  for (const states of streams) await bench.walk(block, loaded, { from: states, to: states });
}

/** A block in which some weights are quantized; their codes belong to `scope`. */
async function withQuantized(
  bench: Bench,
  { loaded, tasks, scope }: {
    readonly loaded: LoadedBlock;
    readonly tasks: readonly QuantizeTask[];
    readonly scope: Scope;
  },
): Promise<BlockTensors> {
  const codes = new Map<string, { task: QuantizeTask; slices: readonly QuantizedSlice[] }>();
  for (const task of tasks) {
    codes.set(task.name, { task, slices: await bench.round(task, scope) });
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

/**
 * Measure candidates beside each other. Takes `here`, which is at the first one's block, to that
 * of the last.
 */
async function measure(
  bench: Bench,
  batch: readonly Candidate[],
  { here, ends }: { readonly here: HiddenStates; readonly ends: HiddenStates },
): Promise<number[]> {
  await using open = new AsyncDisposableStack();
  const streams: (Candidate & { readonly states: HiddenStates })[] = [];
  for (const one of batch) streams.push({ ...one, states: open.use(await bench.stream()) });
  const last = batch.at(-1)!.block;
  bench.schedule(...[...bench.graphs.keys()].slice(batch[0]!.block), undefined);
  for (let block = batch[0]!.block; block < bench.graphs.length; block++) {
    const begun = streams.filter((one) => one.block < block).map(({ states }) => states);
    const begin = streams.filter((one) => one.block === block);
    await through(bench, block, {
      streams: block < last ? [...begun, here] : begun,
      begin,
      here,
    });
  }
  const others = streams.map(({ states }) => ({ states, weights: bench.weights }));
  const found = await score(bench, ends, others);
  return found.map((value, i) => finite(value, batch[i]!));
}

/** Measure the head alone. */
async function measureHead(
  bench: Bench,
  candidate: Candidate,
  ends: HiddenStates,
): Promise<number> {
  const [task] = candidate.tasks as [QuantizeTask];
  const head: OtherHead = {
    rowStep: task.rowStep,
    load: (rows, scope) => bench.roundedHead(task, rows, scope),
  };
  const [value] = await score(bench, ends, [{ states: ends, weights: bench.weights, head }]);
  return finite(value!, candidate);
}

/** Mean divergences of streams from the original's. */
async function score(
  bench: Bench,
  ends: HiddenStates,
  others: readonly EndedStream[],
): Promise<number[]> {
  const scores = await scoreStates(bench.model, {
    backend: bench.backend,
    windows: bench.windows,
    tables: bench.tables,
    original: { states: ends, weights: bench.weights },
    others,
    progress: () => {
      bench.counter.count("head");
      return bench.pace.keep();
    },
    signal: bench.signal,
  });
  return scores.map(({ divergence }) => mean(divergence));
}
