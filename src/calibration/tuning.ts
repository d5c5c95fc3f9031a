/**
 * A block trained with quantization in the loop: for what the original block makes of the original
 * model's states, from those that the quantized model's blocks before it give, so that it also
 * repairs what these have done.
 *
 * Of the calibration's windows some are held out: by their error, measured before, on the way and
 * at the end, the best codes and scales are kept, and the block never ends worse than it began.
 * Which windows make a step is drawn by a seed that is always the same.
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import { draw } from "../corpora/random.ts";
import { BlockTape, type OnLinear, type TapeTensors } from "../forward/backward.ts";
import { Pace } from "../pace.ts";
import { walkBlock } from "../forward/walk.ts";
import type { BlockGraph } from "../graph/block_graph.ts";
import type { Trained, TrainingRates, TrainingSteps, TuningSchedule } from "../method.ts";
import { multiply } from "../ops/gemm.ts";
import { narrow } from "../ops/narrow.ts";
import { widened } from "../ops/widen.ts";
import { splitWindows, wayBack } from "../plan/tuning.ts";
import type { TuningFacts } from "../report.ts";
import type { Rows } from "../source.ts";
import type { TrainingLoss } from "./training_loss.ts";
import type { TrainingWindows } from "./training_windows.ts";

/** How many times held-out windows judge on the way. */
const JUDGEMENTS = 10;

/** Some rows of a weight in training. */
export interface TrainedSlice {
  readonly rows: Rows;
  readonly trained: Trained;
  /** What its rows were multiplied by since. */
  readonly rowFactors?: Float32Array<ArrayBuffer> | undefined;
}

/** What training a block takes. */
export interface TuningContext {
  /** The slices of weights that are trained, by matrix. */
  readonly weights: ReadonlyMap<string, readonly TrainedSlice[]>;
  /** The block as its weights' codes and scales of now make it. */
  readonly tensors: TapeTensors;
  readonly windows: TrainingWindows;
  readonly schedule: TuningSchedule;
  readonly loss: TrainingLoss;
  /** How many windows go through the block together. */
  readonly together: number;
  readonly backend: Backend;
  /** Called when some windows were trained on. */
  readonly count: (windows: number) => void;
  readonly signal?: AbortSignal | undefined;
}

/** Train a block; its weights' codes and scales change in place. */
export async function tuneBlock(graph: BlockGraph, context: TuningContext): Promise<TuningFacts> {
  const { windows, schedule: { iterations, batch, rates }, backend, signal, count } = context;
  using scope = backend.scope();
  using training = new BlockTraining(graph, { ...context, scope });
  const { training: use, heldOut } = splitWindows(windows.count);
  const before = await training.error(heldOut);
  let best = before;
  const pace = new Pace(backend);
  const every = Math.ceil(iterations / JUDGEMENTS);
  for (let i = 0; i < iterations; i++) {
    signal?.throwIfAborted();
    const drawn = draw(batch, { total: use.length, seed: i }).map((at) => use[at]!);
    const left = 1 - i / iterations;
    await training.step(drawn, { codes: rates.codes * left, scales: rates.scales * left });
    await pace.keep();
    count(batch);
    if ((i + 1) % every !== 0 && i + 1 < iterations) continue;
    const error = await training.error(heldOut);
    if (!(error < best)) continue;
    best = error;
    training.keep();
  }
  training.restore();
  return { iterations, before, after: best };
}

/** Rows of a weight, the gradient by them, and what changes them. */
interface Part {
  readonly rows: Rows;
  /** f32|bf16[R, C] */
  readonly gradient: Tensor;
  readonly steps: TrainingSteps;
}

class BlockTraining implements Disposable {
  readonly #graph: BlockGraph;
  readonly #context: TuningContext;
  readonly #tape: BlockTape;
  readonly #parts = new Map<string, readonly Part[]>();

  constructor(graph: BlockGraph, context: TuningContext & { readonly scope: Scope }) {
    this.#graph = graph;
    this.#context = context;
    const { weights, tensors, windows: { tables }, schedule, together, scope } = context;
    const tokens = together * tables.tokens;
    const plan = wayBack(graph, { tokens, seqLen: tables.tokens }, { inputGradient: false });
    this.#tape = new BlockTape(graph, plan, { scope, tensors, tables });
    for (const [name, slices] of weights) {
      this.#parts.set(
        name,
        slices.map(({ rows, trained, rowFactors }) => {
          const { rows: count, columns } = trained.quantized;
          const gradient = scope.alloc(schedule.gradients, [count, columns]);
          return { rows, gradient, steps: trained.begin(scope, rowFactors) };
        }),
      );
    }
  }

  /** One step, by some windows. */
  async step(windows: readonly number[], rates: TrainingRates): Promise<void> {
    const { backend, loss } = this.#context;
    for (const [i, some] of this.#stacksOf(windows).entries()) {
      using scope = backend.scope();
      const { x, target } = await this.#context.windows.batch(some, scope);
      const y = this.#tape.forward(x, scope);
      const gradient = await loss.gradient(y, target, scope);
      scope.release(y)[Symbol.dispose]();
      const onLinear: OnLinear = (matrix, given) => this.#add(matrix.name, given, i > 0);
      this.#tape.backward(gradient, { scope, onLinear });
    }
    const tokens = windows.length * this.#context.windows.tables.tokens;
    for (const { gradient, steps } of this.#all()) {
      using scope = backend.scope();
      steps.step(widened(gradient, scope), rates, tokens);
    }
  }

  /** The mean loss of what the block makes of some windows. */
  async error(windows: readonly number[]): Promise<number> {
    const { backend, tensors, loss, windows: { tables } } = this.#context;
    using held = backend.scope();
    const measured: Tensor[] = [];
    let tokens = 0;
    for (const some of this.#stacksOf(windows)) {
      using scope = backend.scope();
      const { x, target } = await this.#context.windows.batch(some, scope);
      const y = walkBlock(this.#graph, x, { scope, tensors, tables });
      measured.push(await loss.measure(y, target, held));
      tokens += some.length * tables.tokens;
    }
    const read = await backend.read(...measured);
    const sums = read.map(({ buffer }) => loss.sumOf(new Float32Array(buffer)));
    return sums.reduce((all, sum) => all + sum, 0) / (tokens * loss.perToken);
  }

  keep(): void {
    for (const { steps } of this.#all()) steps.keep();
  }

  [Symbol.dispose](): void {
    this.#tape[Symbol.dispose]();
  }

  restore(): void {
    for (const { steps } of this.#all()) steps.restore();
  }

  /** Add dyᵀ·x to the gradients by a matrix's rows, or begin with it. */
  #add(
    name: string,
    { x, dy }: { readonly x: Tensor; readonly dy: Tensor },
    add: boolean,
  ): void {
    const { backend } = this.#context;
    const [tokens = 0, columns = 0] = x.shape;
    for (const { rows: { from, to }, gradient } of this.#parts.get(name) ?? []) {
      using scope = backend.scope();
      const c = add || gradient.dtype === "f32"
        ? widened(gradient, scope)
        : scope.alloc("f32", gradient.shape);
      multiply(backend, {
        a: { tensor: dy, column: from, transposed: true },
        b: { tensor: x, transposed: true },
        c: { tensor: c },
      }, { m: to - from, n: columns, k: tokens, add });
      if (c !== gradient) backend.run(narrow, { x: c, y: gradient });
    }
  }

  #all(): readonly Part[] {
    return [...this.#parts.values()].flat();
  }

  #stacksOf(windows: readonly number[]): (readonly number[])[] {
    const { together } = this.#context;
    const count = Math.ceil(windows.length / together);
    return Array.from({ length: count }, (_, i) => windows.slice(i * together, (i + 1) * together));
  }
}
