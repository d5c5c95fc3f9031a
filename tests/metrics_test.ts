/** The per-tensor metrics against their definitions, computed plainly in float64. */
import assert from "node:assert/strict";
import type { Backend, Tensor } from "../src/backend.ts";
import type { ErrorSums } from "../src/metric.ts";
import { ErrorGatherer, METRICS } from "../src/metrics/mod.ts";
import { BINS } from "../src/metrics/sums.ts";
import { gaussian, uniform } from "./conformance/given.ts";
import { onEveryBackend } from "./present.ts";

const COLUMNS = 37;

function compute(name: string, sums: ErrorSums): number {
  const metric = METRICS.find((candidate) => candidate.name === name);
  assert.ok(metric, name);
  return metric.compute(sums);
}

/** Gather the sums of two arrays, cut into slices of so many rows. */
async function gather(
  backend: Backend,
  { original, dequantized, rows }: {
    readonly original: Float32Array<ArrayBuffer>;
    readonly dequantized: Float32Array<ArrayBuffer>;
    readonly rows: number;
  },
): Promise<ErrorSums> {
  using errors = new ErrorGatherer(backend);
  for (let at = 0; at < original.length; at += rows * COLUMNS) {
    using scope = backend.scope();
    const upload = (values: Float32Array<ArrayBuffer>): Tensor => {
      const part = values.slice(at, at + rows * COLUMNS);
      const tensor = scope.alloc("f32", [part.length / COLUMNS, COLUMNS]);
      backend.write(tensor, new Uint8Array(part.buffer));
      return tensor;
    };
    await errors.add(upload(original), upload(dequantized));
  }
  return errors.sums();
}

/**
 * A bell-shaped weight with a few large values at its end, and itself rounded to multiples of
 * `step`.
 */
function weights(step: number): {
  original: Float32Array<ArrayBuffer>;
  dequantized: Float32Array<ArrayBuffer>;
} {
  const original = gaussian(COLUMNS * 300, 5, 0.02);
  original.set([0.9, -1.7, 0.3], original.length - 3);
  const dequantized = original.map((value) => Math.round(value / step) * step);
  return { original, dequantized };
}

function close(got: number, want: number, tolerance: number): void {
  assert.ok(Math.abs(got - want) <= tolerance, `${got} is not ${want} within ${tolerance}`);
}

onEveryBackend("the metrics of a rounded weight equal their definitions", async (backend) => {
  const { original, dequantized } = weights(1 / 64);
  const sums = await gather(backend, { original, dequantized, rows: 300 });
  let [signal, energy, cross, noise, worst, peak] = [0, 0, 0, 0, 0, 0];
  original.forEach((w, i) => {
    const q = dequantized[i]!;
    signal += w * w;
    energy += q * q;
    cross += w * q;
    noise += (w - q) ** 2;
    worst = Math.max(worst, Math.abs(w - q));
    peak = Math.max(peak, Math.abs(w));
  });
  // A chunk's f32 sum of 4,096 terms of one sign is within 4,096 · 2^-24 of the truth, relatively;
  // a decibel is ln(10)/10.
  const relative = 4096 * 2 ** -24;
  const decibels = 2 * relative * 10 / Math.LN10;
  close(compute("sqnr_db", sums), 10 * Math.log10(signal / noise), decibels);
  close(
    compute("psnr_db", sums),
    10 * Math.log10(peak ** 2 / (noise / original.length)),
    decibels,
  );
  close(compute("cosine", sums), cross / Math.sqrt(signal * energy), 2 * relative);
  assert.equal(compute("max_error", sums), Math.fround(worst));
  assert.equal(sums.count, original.length);
});

onEveryBackend(
  "the earth mover's distance is that of the sorted values within a bin",
  async (backend) => {
    for (const step of [1 / 1024, 1 / 64, 1 / 8]) {
      const { original, dequantized } = weights(step);
      const sums = await gather(backend, { original, dequantized, rows: 300 });
      const [a, b] = [original.toSorted(), dequantized.toSorted()];
      const exact = a.reduce((sum, value, i) => sum + Math.abs(value - b[i]!), 0) / a.length;
      // The range is at most twice max|w| + max|w − ŵ|, so a bin is at most 4 of it / BINS wide.
      const width = 4 * (1.7 + step / 2) / BINS;
      close(compute("emd", sums), exact, width);
      // Errors of the bins cancel: of a distance that is many bins wide hardly anything is lost.
      if (step >= 1 / 64) close(compute("emd", sums), exact, 2e-4 * exact);
    }
  },
);

onEveryBackend(
  "two values moved by a known distance have that distance as their EMD",
  async (backend) => {
    const original = new Float32Array(COLUMNS).fill(0.25);
    const dequantized = new Float32Array(COLUMNS).fill(0.75);
    const sums = await gather(backend, { original, dequantized, rows: 1 });
    close(compute("emd", sums), 0.5, 2 * sums.range / BINS);
    assert.equal(compute("max_error", sums), 0.5);
    close(compute("cosine", sums), 1, 1e-12);
    // Σw² / Σ(w − ŵ)² = 1/16 / (1/4)
    close(compute("sqnr_db", sums), 10 * Math.log10(0.25), 1e-12);
  },
);

onEveryBackend(
  "how a weight is cut into slices changes its sums by rounding only",
  async (backend) => {
    const { original, dequantized } = weights(1 / 16);
    const whole = await gather(backend, { original, dequantized, rows: 300 });
    for (const rows of [40, 299]) {
      const cut = await gather(backend, { original, dequantized, rows });
      assert.equal(cut.count, whole.count);
      assert.equal(cut.range, whole.range);
      close(cut.signal / whole.signal, 1, 2 * 4096 * 2 ** -24);
      // A value may fall on the other side of an edge that is within 2^-23 · range of it; edges are
      // 2 · range / BINS apart, so that happens to some BINS · 2^-23 of all values. Ten times as
      // many would be no rounding.
      const moved = cut.original.reduce((sum, n, bin) =>
        sum + Math.abs(n - whole.original[bin]!), 0) / 2;
      assert.ok(moved <= 10 * whole.count * BINS * 2 ** -23, `${moved} values moved`);
      assert.equal(cut.original.reduce((sum, n) => sum + n), whole.count);
      assert.equal(cut.quantized.reduce((sum, n) => sum + n), whole.count);
      close(compute("emd", cut), compute("emd", whole), 2 * whole.range / BINS);
    }
  },
);

onEveryBackend(
  "a weight that did not change has infinite SQNR, and a weight of zeros no fault",
  async (backend) => {
    const next = uniform(3);
    const original = new Float32Array(COLUMNS * 4).map(() => next() - 0.5);
    const same = await gather(backend, { original, dequantized: original, rows: 4 });
    assert.equal(compute("sqnr_db", same), Infinity);
    assert.equal(compute("psnr_db", same), Infinity);
    assert.equal(compute("emd", same), 0);
    close(compute("cosine", same), 1, 1e-6);
    const zeros = new Float32Array(COLUMNS);
    const nothing = await gather(backend, { original: zeros, dequantized: zeros, rows: 1 });
    assert.equal(compute("cosine", nothing), 1);
    assert.equal(compute("emd", nothing), 0);
    assert.equal(compute("max_error", nothing), 0);
  },
);
