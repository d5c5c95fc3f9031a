/**
 * Error propagation: before codes are chosen, each linear's target is moved so that it repairs what
 * the quantized blocks before it did to its input, as far as a linear map of that input can (QEP,
 * arXiv 2504.09629), and where its output is added to the residual stream, also the error that is
 * in the stream already.
 *
 * With x the input in the quantized model, X in the original, r and R the residual streams, sums
 * over tokens:
 *
 *   W* = W + [W·Σ(X − x)xᵀ + Σ(R − r)xᵀ]·(Σxxᵀ + λI)⁻¹
 *
 * Where the output joins the residual stream, W·X + R is the original's next residual stream Y, so
 * that what is in brackets is Σ(Y − r)xᵀ − W·Σxxᵀ: one product per token where the terms apart
 * would take two or three. A bias of the linear is taken off, and a factor of its output divided
 * out. Where the output goes through a norm before it is added, no linear map leads from W to the
 * stream: there its input's error alone is repaired.
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import type { Carried } from "../carry.ts";
import { type Factor, soundFactor } from "../linalg/factor.ts";
import type { Gram } from "../linalg/panels.ts";
import { add } from "../ops/add.ts";
import { addBias } from "../ops/add_bias.ts";
import { copyRectangle } from "../ops/copy.ts";
import { embedding } from "../ops/embedding.ts";
import { multiply } from "../ops/gemm.ts";
import { scaleCap } from "../ops/scale_cap.ts";
import { difference } from "../ops/subtract.ts";
import { widen } from "../ops/widen.ts";
import { Pace } from "../pace.ts";
import { elementCount } from "../tensor.ts";
import { restorePanels, savePanels } from "../linalg/saved_panels.ts";
import {
  allocMatrix,
  allocPanels,
  multiplyByPanels,
  multiplyByTransposed,
  type Panels,
} from "../linalg/panels.ts";

/**
 * By how much a correction is held back where it cannot be told from chance: λ is this many times
 * the mean squared length of an input, as if in every direction this many further tokens had been
 * seen that lack nothing.
 */
export const PROPAGATION_DAMPING = 10;

/**
 * What is to be made up for where the quantized model's input is observed: the original model's
 * input against its own, or where the stage's output joins the residual stream, the original's
 * stream with that output against its own without it. f32[T, n] both.
 */
export interface Gap {
  readonly original: Tensor;
  readonly quantized: Tensor;
}

/** Gathers how two streams differ at one stage; as an observation, it is saved and restored. */
export interface Difference extends Carried {
  /**
   * Take in a stack of windows. `x` f32[T, C] is the quantized model's input; `gap` is what is to
   * be made up for: X − x, or Y − r where the output joins the residual stream.
   */
  add(x: Tensor, gap: Gap): Promise<void>;
  /**
   * What moves targets, once all windows were seen; undefined when the Gram matrix cannot be solved
   * with.
   */
  finish(gram: Gram, scope: Scope): Promise<TargetMover | undefined>;
}

/** Moves a linear's target. */
export interface TargetMover {
  /**
   * Change rows of a weight, f32[ids.length, C], in place; `ids` are their numbers in the whole
   * weight.
   */
  move(weight: Tensor, ids: Uint32Array): Promise<void>;
}

/** Where a difference is gathered. */
interface DifferenceOptions {
  readonly scope: Scope;
  /** Ends what takes long when it is aborted. */
  readonly signal?: AbortSignal | undefined;
}

/** Observe Σ(X − x)xᵀ for linears that share an input. */
export function observeInputs(
  channels: number,
  { scope, signal }: DifferenceOptions,
): Difference {
  const pace = new Pace(scope.backend, signal);
  const sums = allocPanels(channels, scope);
  let seen = false;
  return {
    async add(x, gap) {
      using scratch = scope.backend.scope();
      const apart = difference(gap.original, gap.quantized, scratch);
      const [k = 0] = x.shape;
      for (const { first, rows, tensor } of sums.panels) {
        multiply(scope.backend, {
          a: { tensor: apart, column: first, transposed: true },
          b: { tensor: x, transposed: true },
          c: { tensor },
        }, { m: rows, n: channels, k, add: seen });
        await pace.keep();
      }
      seen = true;
    },
    save: (to) => savePanels(sums, { to }, scope.backend),
    async restore(from) {
      await restorePanels(sums, { from, add: seen }, scope.backend);
      seen = true;
    },
    async finish(gram, scope) {
      const factor = await solvable(gram, { scope, signal });
      if (!factor) return undefined;
      // K = Σ(X − x)xᵀ·(Σxxᵀ + λI)⁻¹, panel by panel of its rows; then W* = W + W·K.
      for (const { tensor } of sums.panels) {
        await solve(tensor, factor.v, { backend: scope.backend, pace });
      }
      return {
        async move(weight) {
          using scratch = scope.backend.scope();
          const [rows = 0] = weight.shape;
          const before = rowsOf(weight, Uint32Array.from({ length: rows }, (_, i) => i), scratch);
          const { backend } = scope;
          await multiplyByPanels(before, sums, weight, { backend, add: true, pace });
        },
      };
    },
  };
}

/** A linear whose output, times a factor, joins the residual stream. */
export interface Joining {
  readonly channels: number;
  readonly rows: number;
  /** What its output is multiplied by. */
  readonly times: number;
  /** [R] */
  readonly bias?: Tensor | undefined;
}

/** Observe Σ(Y − r)xᵀ for the one linear of a stage whose output joins the residual stream. */
export function observeResiduals(
  { channels, rows, times, bias }: Joining,
  { scope, signal }: DifferenceOptions,
): Difference {
  const { backend } = scope;
  const pace = new Pace(backend, signal);
  const sums = allocMatrix([rows, channels], scope);
  const whole = { size: channels, panels: [{ first: 0, rows, tensor: sums }] };
  const offset = bias && negated(bias, scope);
  let seen = false;
  return {
    async add(x, gap) {
      using scratch = backend.scope();
      const apart = difference(gap.original, gap.quantized, scratch);
      if (times !== 1) backend.run(scaleCap, { x: apart }, { times: 1 / times, cap: 0 });
      if (offset) backend.run(addBias, { b: offset, y: apart });
      const [k = 0] = x.shape;
      multiply(backend, {
        a: { tensor: apart, transposed: true },
        b: { tensor: x, transposed: true },
        c: { tensor: sums },
      }, { m: rows, n: channels, k, add: seen });
      await pace.keep();
      seen = true;
    },
    save: (to) => savePanels(whole, { to }, backend),
    async restore(from) {
      await restorePanels(whole, { from, add: seen }, backend);
      seen = true;
    },
    async finish(gram, scope) {
      const factor = await solvable(gram, { scope, signal });
      if (!factor) return undefined;
      return {
        async move(weight, ids) {
          using scratch = backend.scope();
          const pull = rowsOf(sums, ids, scratch);
          await multiplyByPanels(weight, gram, pull, { backend, alpha: -1, add: true, pace });
          await solve(pull, factor.v, { backend, pace });
          backend.run(add, { y: pull, x: weight }, { times: 1, other: 1 });
        },
      };
    },
  };
}

/** −b, f32[R] in `scope`. */
function negated(b: Tensor, scope: Scope): Tensor {
  const { backend } = scope;
  if (b.dtype === "f32") {
    const zero = scope.alloc("f32", b.shape);
    backend.write(zero, new Uint8Array(4 * elementCount(b.shape)));
    return difference(zero, b, scope);
  }
  const x = scope.alloc("f32", b.shape);
  backend.run(widen, { x: b, y: x });
  backend.run(scaleCap, { x }, { times: -1, cap: 0 });
  return x;
}

/** Rows of a matrix, in memory of their own. */
function rowsOf(table: Tensor, rows: Uint32Array, scope: Scope): Tensor {
  const { backend } = scope;
  const [, columns = 0] = table.shape;
  const x = scope.alloc("f32", [rows.length, columns]);
  if (table.outside) {
    rows.forEach((row, i) =>
      copyRectangle(backend, {
        from: { tensor: table, row },
        to: { tensor: x, row: i },
      }, { rows: 1, columns })
    );
    return x;
  }
  using scratch = backend.scope();
  const ids = scratch.alloc("u32", [rows.length]);
  backend.write(ids, new Uint8Array(rows.buffer, rows.byteOffset, rows.byteLength));
  backend.run(embedding, { ids, table, x }, { first: 0 });
  return x;
}

/**
 * The factor of Σxxᵀ + λI, with ten times the λ where rounding asks for it; undefined when that is
 * not enough.
 */
async function solvable(
  gram: Gram,
  { scope, signal }: DifferenceOptions,
): Promise<Factor | undefined> {
  const { size, diagonal, tokens } = gram;
  const power = diagonal.reduce((sum, square) => sum + square, 0) / tokens;
  const order = Uint32Array.from({ length: size }, (_, i) => i);
  for (const damping of [PROPAGATION_DAMPING * power, 10 * PROPAGATION_DAMPING * power]) {
    const made = power > 0 && await soundFactor(gram, { scope, order, damping, signal });
    if (made) return made;
  }
  return undefined;
}

/** x·(Σxxᵀ + λI)⁻¹ = x·V·Vᵀ in place of x, f32[n, C]. */
async function solve(
  x: Tensor,
  v: Panels,
  { backend, pace }: { readonly backend: Backend; readonly pace: Pace },
): Promise<void> {
  using scratch = backend.scope();
  const [rows = 0, columns = 0] = x.shape;
  const half = allocMatrix([rows, columns], scratch, x.outside);
  await multiplyByPanels(x, v, half, { backend, pace });
  await multiplyByTransposed(half, v, x, { backend, pace });
}
