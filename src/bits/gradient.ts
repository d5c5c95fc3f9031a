/**
 * How much a text's likelihood depends on what rounding does to a group of linears: gradients
 * through the whole model, once for all groups. With e the error that rounding makes of a linear's
 * output for a token, and g the gradient of the loss by that output, ⟨g, e⟩ is what the loss
 * changes by, to the first order; half the mean of its square is what the divergence from the
 * original is to the second, if tokens are taken to be independent (the Fisher information, with
 * the text's tokens for those that the model would draw; as in SqueezeLLM, Kim et al., arXiv
 * 2306.07629, which takes weights to be independent too). A few tokens, a window's first among
 * them, change by nats, where the first order says nothing any more, and would be nearly all of a
 * mean of squares. So the mean of |d| says how large changes are: of a normal distribution,
 * ½·mean d² is π/4·(mean |d|)². Where GPTQ will choose codes, e is what it is expected to leave,
 * and where errors are propagated the blocks behind repair some of it.
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import { productOf, type QuantizedSlice } from "../calibration/quantized_weight.ts";
import { BlockTape, type OnLinear } from "../forward/backward.ts";
import type { LoadedBlock } from "../forward/loaded_block.ts";
import { type BlockTensors, copyOf, walkBlock } from "../forward/walk.ts";
import { natural, scaleColumns } from "../linalg/channels.ts";
import { type Factor, factorWork, importanceOf } from "../linalg/factor.ts";
import type { Gram } from "../linalg/panels.ts";
import { dampedFactor } from "../methods/gptq.ts";
import { gram } from "../observers/gram.ts";
import { multiply } from "../ops/gemm.ts";
import type { Model } from "../family.ts";
import type { HiddenStates } from "../forward/hidden_states.ts";
import { type HeadSlice, PredictionLoss } from "../forward/prediction_loss.ts";
import { checkWalk, walkNeeds } from "../forward/walk_memory.ts";
import { originalWeights } from "../forward/weights.ts";
import { graphsOf, type Stage } from "../graph/block_graph.ts";
import type { Matrix } from "../graph/matrices.ts";
import { LOGIT_BYTES } from "../limits.ts";
import { rowDots } from "../ops/row_dots.ts";
import { difference } from "../ops/subtract.ts";
import { requestOf } from "../plan/planned.ts";
import { leastCommonMultiple } from "../plan/slices.ts";
import { stackTokens } from "../plan/stacks.ts";
import type { QuantizeTask } from "../plan/tasks.ts";
import { wayBack } from "../plan/tuning.ts";
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
 * What a block leaves of the loss by errors before it where its targets are moved to repair them.
 * Measured by 3 bits in place of 4 for some blocks alone: 0.979 on SmolLM2-135M (its 30 blocks in
 * halves), 0.97 on the sample model (each of 4 blocks).
 */
const LEFT_BY_BLOCK = 0.98;

/**
 * π/4·(mean |d|)² over the predicted tokens, d what each candidate changes a token's share of the
 * text's negative log-likelihood by, to the first order: an estimate of the KL divergence in nats
 * per token.
 *
 * @param candidates In the order of their blocks.
 * @throws {UnsupportedError} the device, or the budget for hidden states, has no room for those of
 * every block.
 * @throws {CheckpointError} a tensor is missing or holds NaN, or what comes of a candidate is not
 * finite.
 */
export async function gradientLosses(
  source: TensorSource,
  candidates: readonly Candidate[],
  options: BenchOptions,
): Promise<number[]> {
  const { together } = gradientNeeds(source, candidates, options);
  await using bench = new Bench(source, options);
  const { backend, windows, stacks, graphs, counter } = bench;
  const changes = new Map(candidates.map((one) => [one, new Changes(stacks)]));
  const of = (block: number) => candidates.filter((one) => one.block === block);
  const turns = sum([...graphs.keys()], (block) => Math.ceil(of(block).length / together) || 1);
  counter.total = windows.length * (graphs.length + 1 + turns);

  // The original's states in front of each block, and behind the last.
  const states = [await bench.embedded()];
  for (const block of graphs.keys()) {
    using scope = backend.scope();
    const loaded = await bench.load(block, scope);
    const to = await bench.keptStream();
    await bench.walk(block, loaded, { from: states.at(-1)!, to });
    states.push(to);
  }
  bench.schedule(undefined, ...[...graphs.keys()].reverse());
  const slopes = await bench.keptStream();
  await fromHead(bench, { ends: states.at(-1)!, slopes, heads: of(graphs.length), changes });
  for (const block of [...graphs.keys()].reverse()) {
    const all = of(block);
    for (let first = 0; first === 0 || first < all.length; first += together) {
      const batch = all.slice(first, first + together);
      const isLast = first + together >= all.length;
      await throughBlock(bench, block, { inputs: states[block]!, slopes, batch, changes, isLast });
    }
  }
  await source.verified?.();
  const predicted = sum(windows, ({ length }) => length - 1);
  return candidates.map((one) => {
    const behind = one.propagated ? graphs.length - 1 - one.block : 0;
    const change = changes.get(one)!.size() / predicted;
    return finite(Math.PI / 4 * change ** 2 * LEFT_BY_BLOCK ** behind, one);
  });
}

/** What a candidate changes the loss by, token by token. */
class Changes {
  readonly #tokens: readonly Float64Array[];

  constructor(stacks: readonly Uint32Array[]) {
    this.#tokens = stacks.map(({ length }) => new Float64Array(length));
  }

  /** Add what one of its weights does. */
  add(stack: number, changes: Float32Array): void {
    const all = this.#tokens[stack]!;
    changes.forEach((change, i) => all[i]! += change);
  }

  /** The sum of |change|. */
  size(): number {
    return sum(
      this.#tokens,
      (tokens) => tokens.reduce((all, change) => all + Math.abs(change), 0),
    );
  }
}

/**
 * How many candidates of a block are measured together, for which half of the device's spare memory
 * is at most, and the bytes on the device with them.
 *
 * @throws {UnsupportedError} the device, or the budget for hidden states, is too small.
 */
export function gradientNeeds(
  source: TensorSource,
  candidates: readonly Candidate[],
  { model, backend, input }: BenchOptions,
): DeviceNeeds {
  const streams = graphsOf(model).length + 2;
  roomForStreams(streams, { model, input });
  const windows = requestOf({ ...input, seqLen: input.windows[0]!.length });
  const tokens = stackTokens(windows, { model, device: backend });
  const tapes = graphsOf(model).map((graph) =>
    wayBack(graph, { tokens, seqLen: windows.seqLen }, { inputGradient: true }).bytes
  );
  const one = candidates.reduce((most, own) => Math.max(most, candidateBytes(own, tokens)), 0);
  const walk = {
    backend,
    streams: [originalWeights(source)],
    windows,
    statesPerToken: streams * model.hiddenSize,
    beside: one + Math.max(LOGIT_BYTES * 2, ...tapes) +
      (candidates.some(({ compensated }) => compensated) ? spreadBytes(model) : 0),
  };
  checkWalk("measure sensitivities", model, walk);
  const { needed } = walkNeeds(model, walk);
  const spare = (backend.memoryBytes ?? Infinity) - needed;
  const blocks = Map.groupBy(candidates, ({ block }) => block);
  const most = Math.max(1, ...[...blocks.values()].map(({ length }) => length));
  const together = Math.min(most, 1 + Math.floor(spare / 2 / Math.max(1, one)));
  return { together, bytes: needed + (together - 1) * one };
}

/** Tokens of the largest stack. */
function mostTokens({ stacks }: Bench): number {
  return Math.max(...stacks.map(({ length }) => length));
}

/** Bytes of a block's Gram matrices and their factors, and of what the largest is made of. */
function spreadBytes(model: Model): number {
  return Math.max(
    ...graphsOf(model).map(({ stages }) => {
      const widths = stages.map(({ channels }) => channels);
      const widest = Math.max(...widths);
      const { device, columns } = factorWork(widest);
      return (2 * sum(widths, (width) => width ** 2) + widest ** 2) * 4 + device + columns;
    }),
  );
}

/** What candidates change the loss by. */
type AllChanges = ReadonlyMap<Candidate, Changes>;

/** Gradients by the states behind the last block, from the text; and what heads change. */
async function fromHead(
  bench: Bench,
  { ends, slopes, heads, changes }: {
    readonly ends: HiddenStates;
    readonly slopes: HiddenStates;
    readonly heads: readonly Candidate[];
    readonly changes: AllChanges;
  },
): Promise<void> {
  const { model, backend, weights, tables, stacks, signal } = bench;
  using held = backend.scope();
  const rowStep = heads.map(({ tasks: [task] }) => task!.rowStep).reduce(leastCommonMultiple, 1);
  const loss = await PredictionLoss.open(
    model,
    { weights, backend, tables, tokens: mostTokens(bench), rowStep, signal },
    held,
  );
  for (const [stack, ids] of stacks.entries()) {
    using scope = backend.scope();
    const x = await ends.get(stack, scope);
    const onSlice = async ({ rows, h, logits, gradient }: HeadSlice) => {
      for (const head of heads) {
        using scratch = backend.scope();
        const product = await bench.roundedHead(head.tasks[0]!, rows, scratch);
        const y = scratch.alloc("f32", logits.shape);
        product(h, y, 0);
        const change = changeOf({ y, before: logits, gradient }, scratch);
        changes.get(head)!.add(stack, await floats(backend, change));
      }
    };
    const slope = await loss.gradient(x, { ids }, {
      scope,
      ...(heads.length > 0 ? { onSlice } : {}),
    });
    await slopes.set(stack, slope, scope);
    await bench.passed(stack, "head");
  }
}

/**
 * Go back through a block, and see what candidates in it change. `slopes`, which are by the block's
 * output, become those by its input where this `isLast`.
 */
async function throughBlock(
  bench: Bench,
  block: number,
  { inputs, slopes, batch, changes, isLast }: {
    readonly inputs: HiddenStates;
    readonly slopes: HiddenStates;
    readonly batch: readonly Candidate[];
    readonly changes: AllChanges;
    readonly isLast: boolean;
  },
): Promise<void> {
  const { backend, stacks, tables, tokens: seqLen } = bench;
  const graph = bench.graphs[block]!;
  using scope = backend.scope();
  const tensors = await bench.load(block, scope);
  const rounded = await roundedWeights(bench, batch, scope);
  const spread = batch.some(({ compensated }) => compensated)
    ? await spreadOf(bench, block, { tensors, inputs, scope })
    : undefined;
  const tokens = mostTokens(bench);
  using tape = new BlockTape(graph, wayBack(graph, { tokens, seqLen }, { inputGradient: true }), {
    scope,
    tensors,
    tables,
  });
  for (const stack of stacks.keys()) {
    bench.signal?.throwIfAborted();
    using own = backend.scope();
    tape.forward(await inputs.get(stack, own), own);
    const found: { readonly of: Changes; readonly change: Tensor }[] = [];
    const onLinear: OnLinear = (matrix, { x, dy }) => {
      const weights = rounded.get(matrix.name) ?? [];
      if (weights.length === 0) return;
      using scratch = backend.scope();
      for (const compensated of [false, true]) {
        const alike = weights.filter(({ candidate }) =>
          (candidate.compensated ?? false) === compensated
        );
        if (alike.length === 0) continue;
        const input = compensated ? spread!.get(matrix.name)!(x, scratch) : x;
        const before = tensors.product({ ...matrix, bias: undefined }, input, scratch);
        for (const { candidate, ...weight } of alike) {
          using inner = backend.scope();
          const y = productOf(weight, input, inner);
          const change = changeOf({ y, before, gradient: dy }, own);
          found.push({ of: changes.get(candidate)!, change });
        }
      }
    };
    const slope = tape.backward(await slopes.get(stack, own), { scope: own, onLinear });
    const read = await backend.read(...found.map(({ change }) => change));
    read.forEach(({ buffer }, i) => found[i]!.of.add(stack, new Float32Array(buffer)));
    if (isLast) await slopes.set(stack, slope!, own);
    await bench.passed(stack, graph.block.name);
  }
}

/** What an input becomes, f32[T, C] in `scope`. */
type Spread = (x: Tensor, scope: Scope) => Tensor;

/**
 * GPTQ's error of a weight is δ·diag(1/U)·U, with δ the errors of rounding and U the factor of the
 * inverse of the inputs' Gram matrix: what it makes of an input x is what δ makes of
 * x·Uᵀ·diag(1/U). That of each matrix, by its name.
 */
async function spreadOf(
  bench: Bench,
  block: number,
  { tensors, inputs, scope }: {
    readonly tensors: LoadedBlock;
    readonly inputs: HiddenStates;
    readonly scope: Scope;
  },
): Promise<ReadonlyMap<string, Spread>> {
  const { backend, signal } = bench;
  const spread = new Map<string, Spread>();
  for (const [stage, sums] of await inputSums(bench, block, { tensors, inputs, scope })) {
    const found = await dampedFactor(sums, { scope, order: natural(stage.channels), signal });
    const factor = found?.factor;
    const inverse = factor && await inverseDiagonal(factor, backend);
    for (const { name } of stage.matrices) {
      // Without a factor GPTQ rounds to nearest.
      spread.set(name, (x, own) => {
        if (!factor || !inverse) return x;
        const y = own.alloc("f32", x.shape);
        for (const [i, { first, rows, tensor }] of factor.v.panels.entries()) {
          multiply(backend, {
            a: { tensor: x, column: first },
            b: { tensor, transposed: true },
            c: { tensor: y },
          }, { m: x.shape[0]!, n: stage.channels, k: rows, add: i > 0 });
        }
        return scaleColumns(y, [inverse], own);
      });
    }
  }
  return spread;
}

/** The Gram matrix of each stage's input; they belong to `scope`. */
async function inputSums(
  { backend, graphs, stacks, tables, signal }: Bench,
  block: number,
  { tensors, inputs, scope }: {
    readonly tensors: LoadedBlock;
    readonly inputs: HiddenStates;
    readonly scope: Scope;
  },
): Promise<(readonly [Stage, Gram])[]> {
  const graph = graphs[block]!;
  const tokens = sum(stacks, ({ length }) => length);
  const observed = graph.stages.map((stage) => ({
    stage,
    sums: gram.open({ channels: stage.channels, tokens, scope, signal }),
  }));
  for (const stack of stacks.keys()) {
    using own = backend.scope();
    const seen = new Map<Matrix, Tensor>();
    const first = new Set(observed.map(({ stage: { matrices } }) => matrices[0]));
    const watched: BlockTensors = {
      vector: (name) => tensors.vector(name),
      product(matrix, x, scratch) {
        if (first.has(matrix)) seen.set(matrix, copyOf(x, own));
        return tensors.product(matrix, x, scratch);
      },
    };
    walkBlock(graph, await inputs.get(stack, own), { scope: own, tensors: watched, tables });
    for (const { stage: { matrices }, sums } of observed) await sums.add(seen.get(matrices[0]!)!);
  }
  const found = [];
  for (const { stage, sums } of observed) found.push([stage, await sums.finish()] as const);
  return found;
}

/** 1/U of the diagonal. */
async function inverseDiagonal(factor: Factor, backend: Backend): Promise<Float32Array> {
  using scratch = backend.scope();
  return (await floats(backend, importanceOf(factor, scratch))).map(Math.sqrt);
}

/** A weight of a candidate, by the name of its matrix. */
type RoundedWeights = ReadonlyMap<
  string,
  {
    readonly candidate: Candidate;
    readonly task: QuantizeTask;
    readonly slices: readonly QuantizedSlice[];
  }[]
>;

/** The weights of candidates, rounded to nearest; their codes belong to `scope`. */
async function roundedWeights(
  bench: Bench,
  batch: readonly Candidate[],
  scope: Scope,
): Promise<RoundedWeights> {
  const rounded = [];
  for (const candidate of batch) {
    for (const task of candidate.tasks) {
      rounded.push({ candidate, task, slices: await bench.round(task, scope) });
    }
  }
  return Map.groupBy(rounded, ({ task }) => task.name);
}

/** ⟨gradient, y − before⟩ of each token, f32[T] in `scope`. */
function changeOf(
  { y, before, gradient }: Readonly<Record<"y" | "before" | "gradient", Tensor>>,
  scope: Scope,
): Tensor {
  const { backend } = scope;
  using scratch = backend.scope();
  const error = difference(y, before, scratch);
  const change = scope.alloc("f32", [y.shape[0]!]);
  backend.run(rowDots, { a: error, b: gradient, y: change });
  return change;
}

async function floats(backend: Backend, tensor: Tensor): Promise<Float32Array> {
  const [bytes] = await backend.read(tensor);
  return new Float32Array(bytes!.buffer);
}
