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
import { sampleRows, scaleColumns } from "../linalg/channels.ts";
import { Least } from "../ops/least.ts";
import type { SmoothableWeight, SmoothingMethod } from "../method.ts";
import type { Gram } from "../linalg/panels.ts";
import { gram } from "../observers/gram.ts";
import { rowDots } from "../ops/row_dots.ts";
import { subtract } from "../ops/subtract.ts";
import type { OptionValues } from "../option.ts";
import { multiplyByPanels } from "../linalg/panels.ts";
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
  async smooth({ weights, options, statistics, backend, shared }) {
    const sums = statistics.of(gram);
    const sizes = channelSizes(sums, shared);
    // An input that is always 0 has no channel that matters more than others.
    if (sizes.every((size) => size === 0)) return undefined;
    const rows = rowsOf(options);
    const best = new Least(0);
    const isBetter = async (ratio: number): Promise<boolean> => {
      const scales = ratio === 0 ? undefined : scalesFor(sizes, ratio);
      return best.offer(ratio, await outputError(weights, { scales, sums, rows, backend }));
    };
    await isBetter(0);
    for (let ratio = STEP; ratio <= MOST; ratio = round(ratio + STEP)) {
      if (!await isBetter(ratio)) break;
    }
    const { value: whole } = best;
    for (const ratio of [round(whole - STEP / 2), round(whole + STEP / 2)]) {
      if (ratio > 0) await isBetter(ratio);
    }
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

/** tr(E·H·Eᵀ) over a sample of the weights' rows, each weight counted whole. */
async function outputError(
  weights: readonly SmoothableWeight[],
  { scales, sums, rows, backend }: {
    scales: Float32Array | undefined;
    sums: Gram;
    rows: number;
    backend: Backend;
  },
): Promise<number> {
  using scope = backend.scope();
  const errors: Tensor[] = [];
  const shares: number[] = [];
  // A rounder may hold a matrix as large as the Gram matrix: there is one at a time.
  for (const [open, alike] of Map.groupBy(weights, ({ open }) => open)) {
    using opened = backend.scope();
    const rounder = await open(scales, opened);
    for (const weight of alike) {
      using scratch = backend.scope();
      const ids = sampleRows(weight.rows, rows);
      const target = weight.take(ids, scratch);
      const scaled = scales ? scaleColumns(target, scales, scratch) : target;
      const { quantized } = await rounder.round({ weight: scaled, scope: scratch });
      const values = schemeKind(weight.scheme).dequantize(quantized, scratch);
      const back = scales
        ? scaleColumns(values, scales.map((scale) => 1 / scale), scratch)
        : values;
      const e = scratch.alloc("f32", target.shape);
      backend.run(subtract, { a: back, b: target, y: e });
      const through = scratch.alloc("f32", target.shape);
      multiplyByPanels(e, sums, through, { backend });
      const dots = scope.alloc("f32", [ids.length]);
      backend.run(rowDots, { a: e, b: through, y: dots });
      errors.push(dots);
      shares.push(weight.rows / ids.length);
    }
  }
  const read = await backend.read(...errors);
  return read.reduce((all, bytes, i) => {
    const sum = new Float32Array(bytes.buffer).reduce((a, b) => a + b, 0);
    return all + sum * shares[i]!;
  }, 0);
}
