/**
 * From final hidden states to token scores. A vocabulary's logits are too many to hold (128,256
 * words × 2,048 tokens are 1 GiB), so the head is walked in slices of its rows, each loaded once
 * and applied to every window; what softmax needs of a slice is folded into ten numbers per token
 * (the op `divergence`), and finished on the host in float64.
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import type { TokenScores } from "../evaluator.ts";
import { divergence } from "../ops/divergence.ts";
import type { Rows } from "../source.ts";

/** One thing in each stream of hidden states. */
export interface StreamPair<T> {
  readonly original: T;
  /** Absent when only one model runs. */
  readonly quantized?: T;
}

/**
 * A slice of the output head's rows, on the device: y f32[T, V] = x f32[T, C] · Wᵀ. V is the number
 * of rows; `window` says whose, where windows are of several models.
 */
export type HeadSlice = (x: Tensor, y: Tensor, window: number) => void;

/** What {@linkcode scoreHead} needs. */
export interface HeadJob {
  readonly backend: Backend;
  /** Token ids of each window, all of one length T ≥ 2. */
  readonly windows: readonly Uint32Array[];
  readonly vocabSize: number;
  /**
   * Most rows per slice: what the weights of a slice allow (a caller's memory plan,
   * `Backend.maxTensorBytes`).
   */
  readonly rowsPerSlice: number;
  /**
   * Slices begin at multiples of this (a quantized head's scheme may ask for it); 1 if not given.
   */
  readonly rowStep?: number;
  /**
   * Bytes that one slice's logits of one stream may take; fewer rows are taken per slice if need
   * be.
   */
  readonly logitBytes: number;
  /**
   * So many windows after each other are one window of the original, whose logits are computed for
   * the first of them; 1 if not given.
   */
  readonly perOriginal?: number;
  /** Bring rows of the head onto the device; what it allocates belongs to `scope`. */
  loadHead(rows: Rows, scope: Scope): Promise<StreamPair<HeadSlice>>;
  /** Hidden states of one window after the final norm: f32[T, C], in `scope` or kept elsewhere. */
  hidden(stream: keyof StreamPair<HeadSlice>, window: number, scope: Scope): Promise<Tensor>;
  /** Called when a window of a slice was queued; what it promises is waited for. */
  progress?(done: number, total: number): Promise<void> | void;
}

/** Numbers per token in the op's state. */
const STATE = 10;

/**
 * Score every predicted token of every window: window by window, positions 0 … T−2 predicting
 * tokens 1 … T−1.
 *
 * @throws {RangeError} windows of unequal length or shorter than 2, a token outside the vocabulary.
 */
export async function scoreHead(job: HeadJob): Promise<TokenScores> {
  const { backend, windows, vocabSize, perOriginal = 1 } = job;
  const length = checkWindows(windows, vocabSize);
  const rows = headRows(job, length);
  using held = backend.scope();
  const jobs = windows.map((window) => {
    const state = startState(length, held);
    const labels = held.alloc("u32", [length]);
    // The last position predicts nothing: its label is any token, its state is not read.
    const shifted = new Uint32Array(length);
    shifted.set(window.subarray(1));
    backend.write(labels, new Uint8Array(shifted.buffer));
    return { state, labels };
  });

  let paired = false;
  const slices = Math.ceil(vocabSize / rows);
  for (let slice = 0; slice < slices; slice++) {
    const from = slice * rows;
    const to = Math.min(from + rows, vocabSize);
    using scope = backend.scope();
    const head = await job.loadHead({ from, to }, scope);
    const p = scope.alloc("f32", [length, to - from]);
    const q = head.quantized ? scope.alloc("f32", [length, to - from]) : p;
    paired ||= head.quantized !== undefined;
    for (const [window, { state, labels }] of jobs.entries()) {
      using inner = backend.scope();
      if (window % perOriginal === 0) {
        head.original(await job.hidden("original", window, inner), p, window);
      }
      head.quantized?.(await job.hidden("quantized", window, inner), q, window);
      backend.run(divergence, { p, q, labels, state }, { first: from });
      await job.progress?.(slice * jobs.length + window + 1, slices * jobs.length);
    }
  }
  const states = await backend.read(...jobs.map(({ state }) => state));
  return finishScores(states.map((bytes) => new Float32Array(bytes.buffer)), {
    perWindow: length - 1,
    paired,
  });
}

/** Rows of the head that are loaded at a time for windows of `length` tokens. */
export function headRows(
  { backend, vocabSize, rowsPerSlice, rowStep: step = 1, logitBytes }: Pick<
    HeadJob,
    "backend" | "vocabSize" | "rowsPerSlice" | "rowStep" | "logitBytes"
  >,
  length: number,
): number {
  const fitting = Math.floor(Math.min(logitBytes, backend.maxTensorBytes) / (4 * length));
  const most = Math.floor(Math.min(rowsPerSlice, fitting) / step) * step;
  return Math.min(vocabSize, Math.max(step, most));
}

/** The common length of the windows. */
function checkWindows(windows: readonly Uint32Array[], vocabSize: number): number {
  const length = windows[0]?.length ?? 0;
  if (length < 2 || windows.some((window) => window.length !== length)) {
    throw new RangeError(
      `Cannot score: got ${windows.length} windows of ${
        [...new Set(windows.map((window) => window.length))].join(", ") || "no"
      } tokens, expected at least one, all of the same length of 2 or more.`,
    );
  }
  for (const window of windows) {
    const wrong = window.find((token) => token >= vocabSize);
    if (wrong !== undefined) {
      throw new RangeError(
        `Cannot score: the text has token ${wrong}, but the model knows ${vocabSize}. The tokenizer belongs to another model.`,
      );
    }
  }
  return length;
}

/**
 * What `divergence` has of tokens before the first slice, f32[tokens, 10]: running maxima at the
 * lowest f32, everything else 0.
 */
export function startState(tokens: number, scope: Scope): Tensor {
  const values = new Float32Array(tokens * STATE);
  for (let row = 0; row < tokens; row++) values[row * STATE] = values[row * STATE + 2] = LOWEST;
  const state = scope.alloc("f32", [tokens, STATE]);
  scope.backend.write(state, new Uint8Array(values.buffer));
  return state;
}

const LOWEST = -3.4028234663852886e38;

/**
 * How far below 0 a computed divergence may lie by rounding alone. With u = 2^-24: the sums of the
 * op hold non-negative terms added in two levels, a relative error of at most some 2^10 u each
 * (vocabularies up to 2^20), which moves a logarithm by as much, and Σ e^(p−m)(p−q) by as much
 * times the mean |p − q| under p, which is small wherever the divergence is.
 */
const ROUNDING = 3 * 2 ** -14;

/**
 * KL(p ‖ q) of each token, of what `divergence` gathered.
 *
 * @param state f32[T, 10]
 */
export function divergencesOf(state: Float32Array): Float64Array {
  return Float64Array.from({ length: state.length / STATE }, (_, row) => {
    const value = (index: number) => state[row * STATE + index]!;
    const logZp = value(0) + Math.log(value(1));
    const logZq = value(2) + Math.log(value(3));
    const kl = value(4) / value(1) - logZp + logZq;
    return kl < 0 && kl > -ROUNDING ? 0 : kl;
  });
}

/**
 * The last step, in float64. With m the maximum, s = Σ e^(p−m), log Z = m + log s and d = Σ
 * e^(p−m)(p − q): −log p(label) = log Z − p(label), and KL(p ‖ q) = d/s − log Z_p + log Z_q. A
 * divergence that is negative within rounding is 0; one that is not within rounding is left for all
 * to see, as is NaN.
 */
function finishScores(
  states: readonly Float32Array[],
  { perWindow, paired }: { readonly perWindow: number; readonly paired: boolean },
): TokenScores {
  const count = states.length * perWindow;
  const originalNll = new Float64Array(count);
  const quantizedNll = paired ? new Float64Array(count) : originalNll;
  const divergences = new Float64Array(count);
  const sameTop = new Uint8Array(count);
  states.forEach((state, window) => {
    divergences.set(divergencesOf(state).subarray(0, perWindow), window * perWindow);
    for (let row = 0; row < perWindow; row++) {
      const value = (index: number) => state[row * STATE + index]!;
      const at = window * perWindow + row;
      const logZp = value(0) + Math.log(value(1));
      const logZq = value(2) + Math.log(value(3));
      originalNll[at] = logZp - value(5);
      quantizedNll[at] = logZq - value(6);
      sameTop[at] = value(7) === value(8) ? 1 : 0;
    }
  });
  return { perWindow, originalNll, quantizedNll, divergence: divergences, sameTop };
}
