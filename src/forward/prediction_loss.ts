/**
 * The gradient of what a model's predictions lose, by the hidden states behind its last block: back
 * through the head, in slices of the vocabulary, and the final norm. A slice is computed twice:
 * softmax knows its sum only after the last one.
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import { headRows, startState } from "../evaluators/head.ts";
import type { Head, Model } from "../family.ts";
import { multiply } from "../ops/gemm.ts";
import { divergence, divergenceVjp, nllVjp, scaleCap, scaleCapVjp } from "../ops/mod.ts";
import { NO_LABEL } from "../ops/nll_vjp.ts";
import { leastCommonMultiple } from "../plan/slices.ts";
import type { Rows } from "../source.ts";
import { normBack } from "./backward.ts";
import { LoadedBlock } from "./loaded_block.ts";
import { finalVectors, headJob, headOf } from "./scoring.ts";
import type { ModelTables } from "./tables.ts";
import { copyOf, normalize } from "./walk.ts";
import { type LoadedRows, loadRows, type ModelWeights } from "./weights.ts";

/** What predictions are compared with. */
export type Against =
  /** The text itself: the loss is the negative log-likelihood. */
  | { readonly ids: Uint32Array }
  /** What the original has behind its last block, f32[T, C]: the loss is KL(original ‖ these). */
  | { readonly original: Tensor };

/** A slice of the head on its way back, for what is to be known of the head's own weights. */
export interface HeadSlice {
  readonly rows: Rows;
  /** Behind the final norm, f32[T, C]. */
  readonly h: Tensor;
  /** h·Wᵀ of these rows, f32[T, V]. */
  readonly logits: Tensor;
  /** The gradient by `logits`, f32[T, V]. */
  readonly gradient: Tensor;
}

/** What a prediction loss works with. */
export interface PredictionContext {
  readonly weights: ModelWeights;
  readonly backend: Backend;
  readonly tables: ModelTables;
  /** Most tokens of a stack. */
  readonly tokens: number;
  /** Slices of the head begin at multiples of this; 1 unless given. */
  readonly rowStep?: number;
  /** Where the head stays, once it was loaded; else it is read for each stack, twice. */
  readonly keep?: Scope;
  readonly signal?: AbortSignal | undefined;
}

/** See the head of this file. Its vectors belong to the scope it was opened in. */
export class PredictionLoss {
  readonly #model: Model;
  readonly #context: PredictionContext;
  readonly #vectors: LoadedBlock;
  /** By their first row. */
  readonly #kept = new Map<number, LoadedRows>();

  private constructor(model: Model, context: PredictionContext, vectors: LoadedBlock) {
    this.#model = model;
    this.#context = context;
    this.#vectors = vectors;
  }

  /** @throws {UnsupportedError} the model has no output head. */
  static async open(
    model: Model,
    context: PredictionContext,
    scope: Scope,
  ): Promise<PredictionLoss> {
    headOf(model);
    const content = { matrices: [], vectors: finalVectors(model) };
    return new PredictionLoss(
      model,
      context,
      await LoadedBlock.load(content, context.weights, { scope }),
    );
  }

  /**
   * The gradient of the sum of all tokens' losses.
   *
   * @param x Behind the last block: windows below each other, f32[T, C].
   * @param onSlice Sees each slice; what it is given is good only during the call.
   * @returns f32[T, C] in `scope`.
   */
  async gradient(
    x: Tensor,
    against: Against,
    { scope, onSlice }: {
      readonly scope: Scope;
      readonly onSlice?: (slice: HeadSlice) => Promise<void>;
    },
  ): Promise<Tensor> {
    const { backend, tables } = this.#context;
    const [tokens = 0, columns = 0] = x.shape;
    const dh = scope.alloc("f32", x.shape);
    using held = backend.scope();
    const found = await this.#gather(x, against, held);
    const { h, other, labels, state } = found;
    const { times, cap, isBent } = this.#bending;
    for await (const slice of this.#slicesOf(tokens, other !== undefined)) {
      const { from, to, product, values, p, q, scope: own } = slice;
      product(h, q, 0);
      const logits = isBent || onSlice ? copyOf(q, own) : q;
      this.#bend(q);
      if (other) {
        product(other, p, 0);
        this.#bend(p);
        backend.run(divergenceVjp, { p, state, q });
      } else backend.run(nllVjp, { labels, state, q }, { first: from });
      if (isBent) backend.run(scaleCapVjp, { x: logits, g: q }, { times, cap });
      await onSlice?.({ rows: { from, to }, h, logits, gradient: q });
      multiply(backend, {
        a: { tensor: q },
        b: { tensor: values(own), transposed: true },
        c: { tensor: dh },
      }, { m: tokens, n: columns, k: to - from, add: from > 0 });
    }
    const { final } = this.#model;
    if (final) normBack({ x, g: dh, norm: final }, { backend, tensors: this.#vectors, tables });
    return dh;
  }

  /**
   * What `divergence` gathers of predictions and the original's: f32[T, 10] in `scope`, of which
   * `divergenceOf` makes numbers.
   */
  async compare(x: Tensor, original: Tensor, scope: Scope): Promise<Tensor> {
    using held = scope.backend.scope();
    const { state } = await this.#gather(x, { original }, held);
    return scope.adopt(held.release(state));
  }

  /** All tokens' maxima and sums over the vocabulary, and what they are computed from. */
  async #gather(x: Tensor, against: Against, scope: Scope) {
    const { backend, tables } = this.#context;
    const [tokens = 0] = x.shape;
    const state = startState(tokens, scope);
    const labels = scope.alloc("u32", [tokens]);
    const next = "ids" in against ? nextTokens(against.ids, tables.tokens) : undefined;
    backend.write(labels, new Uint8Array((next ?? new Uint32Array(tokens)).buffer));
    const h = this.#normalized(x, scope);
    const other = "original" in against ? this.#normalized(against.original, scope) : undefined;
    for await (const { from, product, p, q } of this.#slicesOf(tokens, other !== undefined)) {
      product(h, q, 0);
      this.#bend(q);
      if (other) {
        product(other, p, 0);
        this.#bend(p);
      }
      backend.run(divergence, { p, q, labels, state }, { first: from });
    }
    return { h, other, labels, state };
  }

  /** What becomes of logits, see `scale_cap`. */
  get #bending() {
    const { times = 1, softcap: cap = 0 } = this.#head;
    return { times, cap, isBent: times !== 1 || cap !== 0 };
  }

  #bend(x: Tensor): void {
    const { times, cap, isBent } = this.#bending;
    if (isBent) this.#context.backend.run(scaleCap, { x }, { times, cap });
  }

  get #head(): Head {
    return headOf(this.#model);
  }

  /** In a scope that ends with the one it is in; of a model without a final norm as it is. */
  #normalized(x: Tensor, scope: Scope): Tensor {
    const { final } = this.#model;
    const { tables } = this.#context;
    return final ? normalize(x, final, { scope, tensors: this.#vectors, tables }) : x;
  }

  get #sliceRows(): number {
    const { weights, backend, tokens, rowStep = 1 } = this.#context;
    const job = headJob(this.#model, [weights], backend);
    return headRows({ ...job, rowStep: leastCommonMultiple(job.rowStep, rowStep) }, tokens);
  }

  /** The head's rows in turn, with room for logits of a stack, and of the original's. */
  async *#slicesOf(tokens: number, paired: boolean): AsyncGenerator<
    Rows & LoadedRows & { readonly q: Tensor; readonly p: Tensor; readonly scope: Scope }
  > {
    const { backend, signal } = this.#context;
    const { vocabSize } = this.#model;
    const count = this.#sliceRows;
    for (let from = 0; from < vocabSize; from += count) {
      signal?.throwIfAborted();
      const rows = { from, to: Math.min(vocabSize, from + count) };
      using scope = backend.scope();
      const loaded = await this.#load(rows, scope);
      const q = scope.alloc("f32", [tokens, rows.to - from]);
      const p = paired ? scope.alloc("f32", q.shape) : q;
      yield { ...rows, ...loaded, q, p, scope };
    }
  }

  /** Rows of the head: those that are kept, or in `scope`. */
  async #load(rows: Rows, scope: Scope): Promise<LoadedRows> {
    const { weights, keep } = this.#context;
    const { of } = this.#head.linear.at;
    if (!keep) return await loadRows(of, weights, { scope, rows });
    const loaded = this.#kept.get(rows.from) ?? await loadRows(of, weights, { scope: keep, rows });
    this.#kept.set(rows.from, loaded);
    return loaded;
  }
}

/** What each token of windows below each other is to predict; the last of a window nothing. */
function nextTokens(ids: Uint32Array, windowTokens: number): Uint32Array<ArrayBuffer> {
  return Uint32Array.from(
    ids,
    (_, i) => (i + 1) % windowTokens === 0 ? NO_LABEL : ids[i + 1]!,
  );
}
