/**
 * What a block is trained for: what the original block makes of the original's states, or what the
 * model predicts after it.
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import { divergencesOf } from "../evaluators/head.ts";
import type { Model } from "../family.ts";
import { BlockTape } from "../forward/backward.ts";
import { LoadedBlock } from "../forward/loaded_block.ts";
import { PredictionLoss } from "../forward/prediction_loss.ts";
import type { ModelTables } from "../forward/tables.ts";
import { walkBlock } from "../forward/walk.ts";
import type { ModelWeights } from "../forward/weights.ts";
import { type BlockGraph, graphsOf } from "../graph/block_graph.ts";
import { rowDots } from "../ops/row_dots.ts";
import { difference } from "../ops/subtract.ts";
import { wayBack } from "../plan/tuning.ts";
import { sum } from "../tensor.ts";

/** A loss of what a block makes of a stack of windows, y f32[T, C], against a target like it. */
export interface TrainingLoss extends Disposable {
  /** Its gradient by y, f32[T, C] in `scope`; of squared errors half. */
  gradient(y: Tensor, target: Tensor, scope: Scope): Promise<Tensor>;
  /** What {@linkcode sumOf} adds up, in `scope`: nothing is read before all stacks are through. */
  measure(y: Tensor, target: Tensor, scope: Scope): Promise<Tensor>;
  sumOf(measured: Float32Array): number;
  /** Of how many the mean is taken: a token's values, or one. */
  readonly perToken: number;
}

/** The squared error of the block's output. */
export function outputLoss(backend: Backend, channels: number): TrainingLoss {
  return {
    gradient: (y, target, scope) => Promise.resolve(difference(y, target, scope)),
    measure(y, target, scope) {
      using scratch = backend.scope();
      const e = difference(y, target, scratch);
      const dots = scope.alloc("f32", [e.shape[0]!]);
      backend.run(rowDots, { a: e, b: e, y: dots });
      return Promise.resolve(dots);
    },
    sumOf: (measured) => measured.reduce((all, row) => all + row, 0),
    perToken: channels,
    [Symbol.dispose]() {},
  };
}

/** A block as it was, and the way back through it. */
interface After {
  readonly graph: BlockGraph;
  readonly tensors: LoadedBlock;
  readonly tape: BlockTape;
}

/**
 * The KL divergence of the model's predictions, per token, the blocks after this one and the head
 * being as they were; both are loaded into `scope`, and stay there.
 */
export async function predictionLoss(
  model: Model,
  graph: BlockGraph,
  { weights, tables, tokens, scope, signal }: {
    readonly weights: ModelWeights;
    readonly tables: ModelTables;
    /** Most tokens of a stack. */
    readonly tokens: number;
    readonly scope: Scope;
    readonly signal?: AbortSignal | undefined;
  },
): Promise<TrainingLoss> {
  const { backend } = scope;
  const graphs = graphsOf(model);
  const after: After[] = [];
  for (const next of graphs.slice(graphs.indexOf(graph) + 1)) {
    const tensors = await LoadedBlock.load(next, weights, { scope });
    const plan = wayBack(next, { tokens, seqLen: tables.tokens }, { inputGradient: true });
    const tape = new BlockTape(next, plan, { scope, tensors, tables });
    after.push({ graph: next, tensors, tape });
  }
  const head = await PredictionLoss.open(
    model,
    { weights, backend, tables, tokens, keep: scope, signal },
    scope,
  );
  const ended = (x: Tensor, own: Scope) =>
    after.reduce(
      (x, { graph, tensors }) => walkBlock(graph, x, { scope: own, tensors, tables }),
      x,
    );
  return {
    async gradient(y, target, own) {
      using scratch = backend.scope();
      const original = ended(target, scratch);
      const x = after.reduce((x, { tape }) => tape.forward(x, scratch), y);
      let slope = await head.gradient(x, { original }, { scope: scratch });
      for (const { tape } of after.toReversed()) {
        slope = tape.backward(slope, { scope: scratch, onLinear: () => {} })!;
      }
      return own.adopt(scratch.release(slope));
    },
    async measure(y, target, own) {
      using scratch = backend.scope();
      return await head.compare(ended(y, scratch), ended(target, scratch), own);
    },
    sumOf: (measured) => sum([...divergencesOf(measured)], (kl) => kl),
    perToken: 1,
    [Symbol.dispose]() {
      for (const { tape } of after) tape[Symbol.dispose]();
    },
  };
}
