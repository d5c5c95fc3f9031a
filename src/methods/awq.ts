/**
 * AWQ (Lin et al., arXiv 2306.00978): channels of a linear's input that are large are divided by a
 * scale, and the weights that read them multiplied by it, so that rounding hurts them less. Scales
 * are a power of the channels' size, s = rms(x)^ρ; what divides the input is the norm before it, or
 * the linear that makes it.
 *
 * AWQ's own programs choose ρ by the error of the layer's output, from forward passes with weights
 * rounded to nearest. Here ρ is chosen by the output error of whatever rounding follows, tr(E·H·Eᵀ)
 * with E = Ŵ − W and H the inputs' Gram matrix: exact for a linear, no forward pass, and for GPTQ
 * the loss that it in fact has, whose best ρ is smaller than that of rounding to nearest. A sample
 * of rows decides.
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import { sampleRows, scaleColumns, stackRows } from "../linalg/channels.ts";
import { Least } from "../ops/least.ts";
import type { SmoothableWeight, SmoothingMethod } from "../method.ts";
import type { Gram } from "../linalg/panels.ts";
import { gram } from "../observers/gram.ts";
import { rowDots } from "../ops/row_dots.ts";
import { difference } from "../ops/subtract.ts";
import { Pace } from "../pace.ts";
import type { OptionValues } from "../option.ts";
import { multiplyByPanels } from "../linalg/panels.ts";
import { tileOf } from "../scheme.ts";
import { schemeKind } from "../schemes/mod.ts";

/** ρ goes up in these steps as long as that helps, then half a step is tried on both sides. */
const STEP = 0.1;
const MOST = 1;

/**
 * Copies of the sampled rows of one weight, f32, on the device at once: the target, scaled,
 * rounded, back, the error; and those of the rounding.
 */
const SAMPLE_COPIES = 14;

/** See the head of this file. */
export const awq: SmoothingMethod = {
  kind: "smoothing",
  name: "awq",
  options: [{
    name: "awq-rows",
    type: "integer",
    placeholder: "n",
    min: 1,
    default: 128,
    help: "awq: rows of each weight that are rounded to compare scales",
  }],
  after: "norms and linears",
  workBytes: (channels, options) => SAMPLE_COPIES * rowsOf(options) * channels * 4,
  needs: () => [gram],
  supports: (scheme) =>
    schemeKind(scheme).choice !== undefined ||
    `awq moves scales for int, fp8, nf4 and fp4, not for ${scheme.kind}`,
  async smooth({ weights, options, statistics, backend, shared, signal }) {
    const sums = statistics.of(gram);
    const sizes = channelSizes(sums, shared);
    // An input that is always 0 has no channel that matters more than others.
    if (sizes.every((size) => size === 0)) return undefined;
    const best = new Least(0);
    const trial = { weights, sums, sizes, rows: rowsOf(options), backend, signal };
    /** Whether the last of some exponents is better than all before. */
    const areBetter = async (...ratios: number[]): Promise<boolean> => {
      const losses = await outputErrors(ratios, trial);
      return ratios.map((ratio, i) => best.offer(ratio, losses[i]!)).at(-1)!;
    };
    // Together goes what is tried in any case: a trial takes a GPU longer than the wait for it.
    for (let better = await areBetter(0, STEP), ratio = STEP; better && ratio < MOST;) {
      ratio = round(ratio + STEP);
      better = await areBetter(ratio);
    }
    const { value: whole } = best;
    const halves = [round(whole - STEP / 2), round(whole + STEP / 2)];
    await areBetter(...halves.filter((ratio) => ratio > 0));
    const { value: strength } = best;
    return strength === 0 ? undefined : { scales: scalesFor(sizes, strength), strength };
  },
};

/** Rows of each weight that decide. */
function rowsOf(options: OptionValues): number {
  return Number(options["awq-rows"] ?? 128);
}

/** Exponents are decimals: 0.1 + 0.2 is 0.3. */
function round(ratio: number): number {
  return Math.round(ratio * 100) / 100;
}

/** The root mean square of each channel; of channels that share a scale, of all of them. */
function channelSizes(
  { diagonal, tokens }: Gram,
  shared: Uint32Array | undefined,
): Float32Array<ArrayBuffer> {
  const squares = Float64Array.from(diagonal, (square) => square / tokens);
  if (shared) {
    const groups = new Map<number, number[]>();
    shared.forEach((group, channel) => groups.getOrInsertComputed(group, () => []).push(channel));
    for (const channels of groups.values()) {
      const mean = channels.reduce((sum, c) => sum + squares[c]!, 0) / channels.length;
      for (const c of channels) squares[c] = mean;
    }
  }
  return Float32Array.from(squares, Math.sqrt);
}

/**
 * size^ratio, scaled so that the largest and the smallest are as far from 1; channels that are
 * never used count as the smallest.
 */
function scalesFor(sizes: Float32Array, ratio: number): Float32Array<ArrayBuffer> {
  const least = sizes.reduce((a, b) => b > 0 ? Math.min(a, b) : a, Infinity);
  const powers = sizes.map((size) => Math.max(size, least, 1e-5) ** ratio);
  const [low, high] = [
    powers.reduce((a, b) => Math.min(a, b)),
    powers.reduce((a, b) => Math.max(a, b)),
  ];
  return powers.map((power) => power / Math.sqrt(low * high));
}

/** What exponents are compared on. */
interface Trial {
  readonly weights: readonly SmoothableWeight[];
  readonly sums: Gram;
  readonly sizes: Float32Array;
  /** Rows of each weight that decide. */
  readonly rows: number;
  readonly backend: Backend;
  readonly signal?: AbortSignal | undefined;
}

/**
 * tr(E·H·Eᵀ) over a sample of the weights' rows, each weight counted whole, for every exponent: one
 * wait for all of them.
 */
async function outputErrors(ratios: readonly number[], trial: Trial): Promise<number[]> {
  const { backend } = trial;
  using scope = backend.scope();
  const queued = [];
  for (const ratio of ratios) {
    queued.push(await queueErrors(ratio, { ...trial, scope, unchecked: true }));
  }
  const read = await backend.read(...queued.flatMap(({ tensors }) => tensors));
  const numbers = read.map(({ buffer }) => new Float32Array(buffer));
  const errors: number[] = [];
  for (const [i, { tensors, errorOf }] of queued.entries()) {
    const error = errorOf(numbers.splice(0, tensors.length));
    errors.push(error ?? await checkedError(ratios[i]!, trial));
  }
  return errors;
}

/** The error of an exponent with which the first damping was not enough. */
async function checkedError(ratio: number, trial: Trial): Promise<number> {
  const { backend } = trial;
  using scope = backend.scope();
  const { tensors, errorOf } = await queueErrors(ratio, { ...trial, scope, unchecked: false });
  const read = await backend.read(...tensors);
  return errorOf(read.map(({ buffer }) => new Float32Array(buffer))) ?? NaN;
}

/** Errors on their way. */
interface QueuedErrors {
  /** To be read; in `scope`. */
  readonly tensors: readonly Tensor[];
  /** The sum of the errors, of the numbers that were read; undefined if the rounding is void. */
  errorOf(numbers: readonly Float32Array[]): number | undefined;
}

async function queueErrors(
  ratio: number,
  { weights, sums, sizes, rows, backend, signal, scope, unchecked }: Trial & {
    readonly scope: Scope;
    readonly unchecked: boolean;
  },
): Promise<QueuedErrors> {
  const scales = ratio === 0 ? undefined : scalesFor(sizes, ratio);
  const dots: Tensor[] = [];
  const shares: { readonly length: number; readonly share: number }[][] = [];
  const sound: Tensor[] = [];
  const pace = new Pace(backend, signal);
  // A rounder may hold a matrix as large as the Gram matrix: there is one at a time.
  for (const [open, alike] of Map.groupBy(weights, ({ open }) => open)) {
    using opened = backend.scope();
    const rounder = await open(scales, opened, { unchecked });
    if (rounder.sound) sound.push(scope.adopt(opened.release(rounder.sound)));
    for (const together of roundedTogether(alike)) {
      using scratch = backend.scope();
      const taken: Tensor[] = [];
      for (const weight of together) taken.push(await weight.take(sampleOf(weight, rows), scratch));
      const target = stackRows(taken, scratch);
      const scaled = scales ? scaleColumns(target, scales, scratch) : target;
      const { quantized } = await rounder.round({ weight: scaled, scope: scratch });
      const values = schemeKind(quantized.scheme).dequantize(quantized, scratch);
      const back = scales
        ? scaleColumns(values, scales.map((scale) => 1 / scale), scratch)
        : values;
      const e = difference(back, target, scratch);
      const through = scratch.alloc("f32", target.shape);
      await multiplyByPanels(e, sums, through, { backend, pace });
      const y = scope.alloc("f32", [target.shape[0]!]);
      backend.run(rowDots, { a: e, b: through, y });
      dots.push(y);
      shares.push(together.map((weight) => {
        const { length } = sampleOf(weight, rows);
        return { length, share: weight.rows / length };
      }));
    }
  }
  return {
    tensors: [...dots, ...sound],
    errorOf(numbers) {
      if (numbers.slice(dots.length).some(([status]) => !(status! > 0))) return undefined;
      let all = 0;
      shares.forEach((parts, i) => {
        let at = 0;
        for (const { length, share } of parts) {
          all += numbers[i]!.subarray(at, at += length).reduce((a, b) => a + b, 0) * share;
        }
      });
      return all;
    },
  };
}

function sampleOf({ rows }: SmoothableWeight, most: number): Uint32Array<ArrayBuffer> {
  return sampleRows(rows, most);
}

/**
 * Weights of one scheme whose rows can be rounded as those of one matrix, because nothing is common
 * to rows; else each alone.
 */
function roundedTogether(weights: readonly SmoothableWeight[]): SmoothableWeight[][] {
  const { scheme } = weights[0]!;
  const alone = "strategy" in scheme && tileOf(scheme.strategy, [2, 1])[0] === 1;
  return alone ? [[...weights]] : weights.map((weight) => [weight]);
}
