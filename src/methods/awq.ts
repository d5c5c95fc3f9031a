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
import type { Backend, Tensor } from "../backend.ts";
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
import { sum } from "../tensor.ts";

/** ρ goes up in these steps as long as that helps, then half a step is tried on both sides. */
const STEP = 0.1;
const MOST = 1;

/** Of all that are tried one after the other. */
const EXPONENTS = Array.from({ length: MOST / STEP + 1 }, (_, i) => round(i * STEP));

/**
 * Copies of the sampled rows of one weight, f32, on the device at once for every exponent: the
 * target, those the rounding works on, what was rounded, back, the error.
 */
const SAMPLE_COPIES = 7;

/** What exponents that are tried together may take, unless two take more. */
const TOGETHER_BYTES = 2 ** 30;

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
  workBytes(weights, channels, { options, device }) {
    const rows = sum(weights, (rows) => Math.min(rows, rowsOf(options)));
    return exponentsTogether(rows, channels, device) * SAMPLE_COPIES * rows * channels * 4;
  },
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
    const rows = rowsOf(options);
    const trial = { weights, sums, sizes, rows, backend, signal };
    const sampled = sum(weights, (weight) => sampleOf(weight, rows).length);
    const together = exponentsTogether(sampled, sums.size, backend);
    for (let i = 0, better = true; better && i < EXPONENTS.length; i += together) {
      const ratios = EXPONENTS.slice(i, i + together);
      const losses = await outputErrors(ratios, trial);
      // One that does not help ends the search, though others were tried beside it.
      better = ratios.every((ratio, k) => best.offer(ratio, losses[k]!) || ratio === 0);
    }
    const { value: whole } = best;
    const halves = [round(whole - STEP / 2), round(whole + STEP / 2)].filter((ratio) => ratio > 0);
    const losses = await outputErrors(halves, trial);
    halves.forEach((ratio, k) => best.offer(ratio, losses[k]!));
    const { value: strength } = best;
    return strength === 0 ? undefined : { scales: scalesFor(sizes, strength), strength };
  },
};

/** Rows of each weight that decide. */
function rowsOf(options: OptionValues): number {
  return Number(options["awq-rows"] ?? 128);
}

/**
 * How many exponents are tried at once: as many as keep the device busy with their rows, two at
 * least, because two are tried in any case.
 */
function exponentsTogether(
  rows: number,
  channels: number,
  { busyRows }: Pick<Backend, "busyRows">,
): number {
  const fitting = TOGETHER_BYTES / (SAMPLE_COPIES * rows * channels * 4);
  const wanted = Math.floor(Math.min(busyRows / rows, fitting));
  return Math.min(EXPONENTS.length, Math.max(2, wanted));
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
  const { weights, sums, sizes, rows, backend, signal } = trial;
  using scope = backend.scope();
  const scales = ratios.map((ratio) => scalesFor(sizes, ratio));
  const dots: Tensor[] = [];
  const shares: RowShare[] = [];
  const pace = new Pace(backend, signal);
  for (const alike of Map.groupBy(weights, ({ alike }) => alike).values()) {
    const rounder = await alike[0]!.rounder();
    for (const { members, parts } of roundedTogether(alike, ratios.length)) {
      using scratch = backend.scope();
      const taken: Tensor[] = [];
      for (const weight of members) taken.push(await weight.take(sampleOf(weight, rows), scratch));
      const target = stackRows(taken, scratch);
      for (const some of parts) {
        using inner = backend.scope();
        const given = some.map((i) => scales[i]!);
        const weight = stackRows(some.map(() => target), inner);
        const { quantized } = await rounder.round({ weight, scales: given, scope: inner });
        const values = schemeKind(quantized.scheme).dequantize(quantized, inner);
        const inverse = given.map((part) => part.map((scale) => 1 / scale));
        const e = difference(scaleColumns(values, inverse, inner), weight, inner);
        const through = inner.alloc("f32", weight.shape);
        await multiplyByPanels(e, sums, through, { backend, pace });
        const y = scope.alloc("f32", [weight.shape[0]!]);
        backend.run(rowDots, { a: e, b: through, y });
        dots.push(y);
        for (const exponent of some) {
          shares.push(...members.map((weight) => {
            const { length } = sampleOf(weight, rows);
            return { exponent, length, share: weight.rows / length };
          }));
        }
      }
    }
  }
  const read = await backend.read(...dots);
  const numbers = read.flatMap(({ buffer }) => [...new Float32Array(buffer)]);
  const errors = ratios.map(() => 0);
  let at = 0;
  for (const { exponent, length, share } of shares) {
    const own = numbers.slice(at, at += length);
    errors[exponent]! += own.reduce((a, b) => a + b, 0) * share;
  }
  return errors;
}

/** Rows of one weight, rounded with one exponent. */
interface RowShare {
  /** Its place among those that were tried. */
  readonly exponent: number;
  readonly length: number;
  /** How many rows of the weight one of them stands for. */
  readonly share: number;
}

function sampleOf({ rows }: SmoothableWeight, most: number): Uint32Array<ArrayBuffer> {
  return sampleRows(rows, most);
}

/**
 * Weights of one scheme, and exponents by number, that are rounded as one matrix, because nothing
 * is common to rows; else each weight alone, with one exponent after the other.
 */
function roundedTogether(
  weights: readonly SmoothableWeight[],
  exponents: number,
): { readonly members: SmoothableWeight[]; readonly parts: number[][] }[] {
  const { scheme } = weights[0]!;
  const numbers = Array.from({ length: exponents }, (_, i) => i);
  const alone = "strategy" in scheme && tileOf(scheme.strategy, [2, 1])[0] !== 1;
  return alone
    ? weights.map((weight) => ({ members: [weight], parts: numbers.map((i) => [i]) }))
    : [{ members: [...weights], parts: [numbers] }];
}
