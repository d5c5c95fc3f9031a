/**
 * From hidden states behind the last block to token scores: the final norm and the head over every
 * window of one stream, and of others that are compared with it.
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import { UnsupportedError } from "../errors.ts";
import type { TokenScores } from "../evaluator.ts";
import { type HeadJob, headRows, type HeadSlice, scoreHead } from "../evaluators/head.ts";
import type { Head, Model } from "../family.ts";
import { LOGIT_BYTES } from "../limits.ts";
import { copyRectangle } from "../ops/copy.ts";
import { scaleCap } from "../ops/mod.ts";
import { leastCommonMultiple } from "../plan/slices.ts";
import { tableRows } from "./embedding.ts";
import type { HiddenStates } from "./hidden_states.ts";
import type { Rows } from "../source.ts";
import { LoadedBlock } from "./loaded_block.ts";
import type { ModelTables } from "./tables.ts";
import { normalize } from "./walk.ts";
import { areAlike, loadRows, type ModelWeights, type Product, sliceStep } from "./weights.ts";

/** One stream of hidden states at the end of its way. */
export interface EndedStream {
  readonly states: HiddenStates;
  readonly weights: ModelWeights;
  /** A head in place of that of its weights. */
  readonly head?: OtherHead;
}

/** A head that is no checkpoint's. */
export interface OtherHead {
  /** Rows that are loaded begin at multiples of this. */
  readonly rowStep: number;
  /** Rows on the device, in `scope`. */
  load(rows: Rows, scope: Scope): Promise<Product>;
}

/** Tensors of what stands behind the blocks, but for the head's weight. */
export function finalVectors({ final }: Model): string[] {
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

/** How the head of a model is walked, whatever the windows. */
export function headJob(
  model: Model,
  weights: readonly ModelWeights[],
  backend: Backend,
): Omit<HeadJob, "windows" | "loadHead" | "hidden"> & { readonly rowStep: number } {
  const { of } = headOf(model).linear.at;
  return {
    backend,
    vocabSize: model.vocabSize,
    rowsPerSlice: tableRows(model, backend),
    rowStep: weights.map((one) => sliceStep(of, one)).reduce(leastCommonMultiple),
    logitBytes: LOGIT_BYTES,
  };
}

/** In how many slices the head is walked for windows of `tokens` tokens. */
export function headSlices(
  model: Model,
  weights: readonly ModelWeights[],
  { backend, tokens }: { readonly backend: Backend; readonly tokens: number },
): number {
  return Math.ceil(model.vocabSize / headRows(headJob(model, weights, backend), tokens));
}

/**
 * Score every window of a stream, and each of the others against it: scores of each of those; of
 * the one where there are no others. The logits of `original` are computed once for all of them.
 */
export async function scoreStates(
  model: Model,
  { backend, windows, tables, original, others, progress, signal }: {
    readonly backend: Backend;
    readonly windows: readonly Uint32Array[];
    readonly tables: ModelTables;
    readonly original: EndedStream;
    readonly others: readonly EndedStream[];
    /** Called when a window of a slice was queued; what it promises is waited for. */
    readonly progress: () => Promise<void>;
    readonly signal?: AbortSignal | undefined;
  },
): Promise<TokenScores[]> {
  const { final } = model;
  const { linear: { at: { of: name } }, times = 1, softcap: cap = 0 } = headOf(model);
  const streams = [original, ...others];
  using held = backend.scope();
  const ends = new Map<ModelWeights, LoadedBlock>();
  for (const { weights } of streams) {
    if (ends.has(weights)) continue;
    const shared = weights.source === original.weights.source
      ? ends.get(original.weights)
      : undefined;
    const content = { matrices: [], vectors: finalVectors(model) };
    ends.set(weights, await LoadedBlock.load(content, weights, { scope: held, shared }));
  }
  using reading = new DisposableStack();
  const tokens = windows[0]!.length;
  const readers = streams.map(({ states }) =>
    reading.use(new WindowReader(states, { backend, tokens }))
  );
  const job = headJob(model, streams.map(({ weights }) => weights), backend);
  // Window by window, so that all that are compared with one follow each other.
  const each = Math.max(1, others.length);
  const scores = await scoreHead({
    ...job,
    rowStep: others.map(({ head }) => head?.rowStep ?? 1).reduce(leastCommonMultiple, job.rowStep),
    windows: windows.flatMap((window) => new Array<Uint32Array>(each).fill(window)),
    perOriginal: each,
    loadHead: async (rows, scope) => {
      signal?.throwIfAborted();
      const { product: first } = await loadRows(name, original.weights, { scope, rows });
      const load = async ({ head, weights }: EndedStream) =>
        head
          ? await head.load(rows, scope)
          : areAlike(name, original.weights, weights)
          ? first
          : (await loadRows(name, weights, { scope, rows })).product;
      const loaded = new Map<OtherHead | ModelWeights, Product>();
      for (const other of others) {
        const key = other.head ?? other.weights;
        if (!loaded.has(key)) loaded.set(key, await load(other));
      }
      const products = others.map(({ head, weights }) => loaded.get(head ?? weights)!);
      const logits = (productOf: (window: number) => Product): HeadSlice => (x, y, window) => {
        productOf(window)(x, y, 0);
        if (times !== 1 || cap !== 0) backend.run(scaleCap, { x: y }, { times, cap });
      };
      return {
        original: logits(() => first),
        ...(others.length > 0 ? { quantized: logits((window) => products[window % each]!) } : {}),
      };
    },
    hidden: async (stream, job, scope) => {
      const i = stream === "original" ? 0 : 1 + job % each;
      const x = await readers[i]!.window(Math.floor(job / each), scope);
      if (!final) return x;
      return normalize(x, final, { scope, tensors: ends.get(streams[i]!.weights)!, tables });
    },
    progress,
  });
  return others.length < 2 ? [scores] : others.map((_, i) => everyNth(scores, { each, first: i }));
}

/** The scores of every so many-th window, from one on. */
function everyNth(
  { perWindow, originalNll, quantizedNll, divergence, sameTop }: TokenScores,
  { each, first }: { readonly each: number; readonly first: number },
): TokenScores {
  const own = (_: number, at: number) => Math.floor(at / perWindow) % each === first;
  return {
    perWindow,
    originalNll: originalNll.filter(own),
    quantizedNll: quantizedNll.filter(own),
    divergence: divergence.filter(own),
    sameTop: sameTop.filter(own),
  };
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
