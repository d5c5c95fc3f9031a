/**
 * Observers: each against its definition in float64 and, where PyTorch has the same, against what
 * PyTorch's says; ranges found in histograms.
 */
import assert from "node:assert/strict";
import type { Backend, Scope, Tensor } from "../src/backend.ts";
import { referenceBackend } from "../src/backends/reference.ts";
import { rangeByError, rangeByPercentile, RANGES } from "../src/schemes/input_range.ts";
import { e4m3ToF32 } from "../src/number.ts";
import { type Observer, openObservations } from "../src/observer.ts";
import { absmax } from "../src/observers/absmax.ts";
import { absmean } from "../src/observers/absmean.ts";
import { BINS, type Histogram, histogram } from "../src/observers/histogram.ts";
import { minMax } from "../src/observers/min_max.ts";
import { movingAverage } from "../src/observers/moving_average.ts";
import { SAMPLE_TOKENS, samplePlaces, tokenSample } from "../src/observers/token_sample.ts";
import { gaussian } from "./conformance/given.ts";
import { goldenFile } from "./golden/file.ts";
import { onEveryBackend } from "./present.ts";

const CHANNELS = 37;

/** Windows of f32[29, 37], of different sizes, one channel large, one always 0. */
const WINDOWS = [1, 8, 0.5].map((size, window) =>
  gaussian(29 * CHANNELS, window + 1, size).map((value, i) => {
    const channel = i % CHANNELS;
    return channel === 5 ? 0 : channel === 11 ? 20 * value + 3 : value;
  })
);

function upload(values: Float32Array<ArrayBuffer>, channels: number, scope: Scope): Tensor {
  const tensor = scope.alloc("f32", [values.length / channels, channels]);
  scope.backend.write(tensor, new Uint8Array(values.buffer));
  return tensor;
}

/** What an observer says of windows. */
async function observed<R>(
  observer: Observer<R>,
  windows: readonly Float32Array<ArrayBuffer>[],
  { backend, channels = CHANNELS }: { backend: Backend; channels?: number },
): Promise<R> {
  using scope = backend.scope();
  const tokens = windows.reduce((n, { length }) => n + length / channels, 0);
  const observations = openObservations([observer], { channels, tokens, scope });
  for (const window of windows) {
    using scratch = backend.scope();
    await observations.add(upload(window, channels, scratch));
  }
  return (await observations.finish()).of(observer);
}

const ALL = WINDOWS.flatMap((window) => [...window]);

/** A number for each channel, from all its values. */
function byChannel(compute: (values: readonly number[]) => number): number[] {
  return Array.from(
    { length: CHANNELS },
    (_, c) => compute(ALL.filter((_, i) => i % CHANNELS === c)),
  );
}

await onEveryBackend(
  "absmax, absmean and min_max equal their definitions",
  async (backend) => {
    const most = byChannel((values) => Math.max(...values.map(Math.abs)));
    assert.deepEqual([...await observed(absmax, WINDOWS, { backend })], most);
    const mean = byChannel((values) =>
      values.reduce((sum, value) => sum + Math.abs(value), 0) / values.length
    );
    (await observed(absmean, WINDOWS, { backend })).forEach((value, c) =>
      assert.ok(Math.abs(value - mean[c]!) <= 1e-6 * mean[c]!, `channel ${c}: ${value}`)
    );
    assert.deepEqual(await observed(minMax, WINDOWS, { backend }), {
      low: Math.min(...ALL),
      high: Math.max(...ALL),
    });
  },
);

await onEveryBackend(
  "a histogram counts every value in its bin, whatever order windows come in, and keeps the exact range",
  async (backend) => {
    const all = await observed(histogram, WINDOWS, { backend });
    const most = Math.max(...ALL.map(Math.abs));
    assert.equal(all.limit, 2 ** (Math.floor(Math.log2(most)) + 1));
    assert.deepEqual([all.low, all.high], [Math.min(...ALL), Math.max(...ALL)]);
    const half = BINS / 2;
    const counts = new Float64Array(BINS);
    for (const value of ALL) {
      const place = Math.floor(Math.abs(value) / all.limit * half);
      counts[value < 0 ? half - 1 - place : half + place]!++;
    }
    assert.deepEqual(all.counts, counts);
    const reversed = await observed(histogram, WINDOWS.toReversed(), { backend });
    assert.deepEqual(reversed, all);
  },
);

await onEveryBackend("a token sample holds the tokens that it should", async (backend) => {
  assert.deepEqual(await sampled(backend, WINDOWS, CHANNELS), ALL, "of few tokens all are kept");
  const windows = [0, 1, 2, 3].map((w) =>
    Float32Array.from({ length: 512 }, (_, i) => 512 * w + i)
  );
  assert.deepEqual(await sampled(backend, windows, 1), [...samplePlaces(2048, 512)]);
});

/** The values of a sample. */
async function sampled(
  backend: Backend,
  windows: readonly Float32Array<ArrayBuffer>[],
  channels: number,
): Promise<number[]> {
  using scope = backend.scope();
  const tokens = windows.reduce((n, { length }) => n + length / channels, 0);
  const observation = tokenSample.open({ channels, tokens, scope });
  for (const window of windows) {
    using scratch = backend.scope();
    await observation.add(upload(window, channels, scratch));
  }
  const [bytes] = await backend.read(await observation.finish());
  return [...new Float32Array(bytes!.buffer)];
}

Deno.test("places of a sample are spread evenly, over windows and within them", () => {
  for (const [windows, length] of [[64, 512], [16, 2048], [2000, 128], [3, 300]] as const) {
    const places = [...samplePlaces(windows * length, length)];
    assert.equal(places.length, SAMPLE_TOKENS);
    const each = new Map<number, number>();
    for (const place of places) {
      const window = Math.floor(place / length);
      each.set(window, (each.get(window) ?? 0) + 1);
    }
    const counts = [...each.values()];
    assert.equal(each.size, Math.min(windows, SAMPLE_TOKENS));
    assert.ok(Math.max(...counts) - Math.min(...counts) <= 1);
    const within = new Set(places.map((place) => place % length));
    assert.equal(within.size, Math.min(length, SAMPLE_TOKENS));
    assert.ok(within.has(0), "the first token of a window");
  }
  assert.deepEqual([...samplePlaces(3, 1)], [0, 1, 2]);
});

Deno.test("an input that holds NaN or infinity is told by infinite ranges, not left out", async () => {
  const backend = referenceBackend();
  for (const bad of [NaN, Infinity]) {
    const windows = [WINDOWS[0]!, WINDOWS[1]!.with(2 * CHANNELS + 7, bad), WINDOWS[2]!];
    const sizes = await observed(absmax, windows, { backend });
    assert.equal(sizes[7], Infinity);
    assert.ok(sizes[8]! < Infinity);
    for (const observer of [minMax, histogram]) {
      const { low, high } = await observed<{ low: number; high: number }>(observer, windows, {
        backend,
      });
      assert.deepEqual([low, high], [-Infinity, Infinity], observer.name);
    }
    const counted = await observed(histogram, windows, { backend });
    assert.equal(rangeByPercentile(counted, 99), Infinity);
    assert.equal(rangeByError(counted, INT8), Infinity);
    const average = await observed(movingAverage, windows, { backend });
    assert.ok(!Number.isFinite(average.high));
  }
});

const golden = goldenFile("observers.safetensors");
const goldenFloats = (name: string) => new Float32Array(golden.bytes(name).buffer);
const BATCHES = [0, 1, 2, 3, 4].map((batch) => goldenFloats(`x.${batch}`));

await onEveryBackend(
  "min_max and moving_average say what PyTorch's observers say, to the bit",
  async (backend) => {
    for (const observer of [minMax, movingAverage]) {
      const { low, high } = await observed(observer, BATCHES, { backend, channels: 24 });
      assert.deepEqual([low, high], [...goldenFloats(`${observer.name}.range`)], observer.name);
    }
  },
);

Deno.test("the histogram is PyTorch's, but for the bins, which hold the same values", async () => {
  const backend = referenceBackend();
  const ours = await observed(histogram, BATCHES, { backend, channels: 24 });
  const [low = 0, high = 0] = goldenFloats("histogram.range");
  assert.deepEqual([ours.low, ours.high], [low, high]);
  const theirs = goldenFloats("histogram.counts");
  const width = (high - low) / theirs.length;
  const width2 = 2 * ours.limit / BINS;
  // PyTorch puts a bin's count into the middles of sixteenths when its range grows: each time by
  // less than a bin.
  const grown = 4 * width;
  const below = (x: number) =>
    theirs.reduce((n, c, i) => low + (i + 1) * width <= x ? n + c : n, 0);
  let sum = 0;
  ours.counts.forEach((count, i) => {
    const edge = i * width2 - ours.limit;
    assert.ok(sum >= below(edge - grown) && sum <= below(edge + grown), `${sum} below ${edge}`);
    sum += count;
  });
});

/** int8 as compressed-tensors has it, and E4M3. */
const INT8 = { levels: Float64Array.from({ length: 256 }, (_, i) => i - 128), steps: 127.5 };
const FP8 = {
  levels: Float64Array.from({ length: 256 }, (_, code) => e4m3ToF32(code))
    .filter((level) => !Number.isNaN(level)).sort(),
  steps: 448,
};

/** Σ(x − x̂)² of the values themselves. */
function errorOf(
  values: readonly number[],
  range: number,
  { levels, steps }: { levels: Float64Array; steps: number },
): number {
  const scale = range / steps;
  return values.reduce((sum, value) => {
    const nearest = levels.reduce((best, level) =>
      Math.abs(level * scale - value) < Math.abs(best * scale - value) ? level : best
    );
    return sum + (nearest * scale - value) ** 2;
  }, 0);
}

async function histogramOf(values: ArrayLike<number>): Promise<Histogram> {
  const backend = referenceBackend();
  return await observed(histogram, [Float32Array.from(values)], { backend, channels: 1 });
}

Deno.test("the range of least error is that of the values themselves, for int8 and for E4M3", async () => {
  // Normal values, and a few outliers that are best left out.
  const values = [...gaussian(4000, 5).map((x, i) => i % 1000 === 7 ? 9 * Math.sign(x) : x)];
  const most = Math.max(...values.map(Math.abs));
  const counted = await histogramOf(values);
  for (const grid of [INT8, FP8]) {
    const found = rangeByError(counted, grid);
    let least = Infinity;
    for (let k = 1; k <= RANGES; k += 16) {
      least = Math.min(least, errorOf(values, most * k / RANGES, grid));
    }
    const error = errorOf(values, found, grid);
    assert.ok(error <= 1.03 * least, `${error} with ${found}, and ${least} is possible`);
    assert.ok(error <= errorOf(values, most, grid));
  }
  assert.ok(rangeByError(counted, INT8) < most);
});

Deno.test("the range of least error loses no more than PyTorch's HistogramObserver on its own batches", async () => {
  const values = BATCHES.flatMap((batch) => [...batch]);
  const found = rangeByError(await histogramOf(values), INT8);
  const theirs = goldenFloats("histogram.scale")[0]! * 127.5;
  assert.ok(errorOf(values, found, INT8) <= 1.001 * errorOf(values, theirs, INT8));
});

Deno.test("a percentile is that of the magnitudes, within a bin", async () => {
  const values = [...gaussian(5000, 6)];
  const counted = await histogramOf(values);
  const sizes = values.map(Math.abs).sort((a, b) => a - b);
  const width = 2 * counted.limit / BINS;
  for (const percent of [50, 90, 99, 99.9, 99.99]) {
    const found = rangeByPercentile(counted, percent);
    const place = percent / 100 * sizes.length;
    const [low, high] = [sizes[Math.floor(place) - 1]!, sizes[Math.min(4999, Math.ceil(place))]!];
    assert.ok(found >= low - width && found <= high + width, `${percent} %: ${found}`);
  }
  assert.equal(rangeByPercentile(counted, 100), sizes.at(-1));
});

Deno.test("ranges of inputs that are constant, or all 0, are what they are", async () => {
  const zeros = await histogramOf(new Float32Array(50));
  assert.deepEqual([rangeByError(zeros, INT8), rangeByPercentile(zeros, 99.99)], [0, 0]);
  const one = await histogramOf(new Float32Array(50).fill(-3));
  // The lowest code is −128: a constant below 0 is met exactly by a range of 3·127.5/128 and by
  // others.
  assert.ok(errorOf(new Array(50).fill(-3), rangeByError(one, INT8), INT8) < 50 * (3 / 127.5) ** 2);
  assert.ok(Math.abs(rangeByPercentile(one, 99.99) - 3) <= 2 * one.limit / BINS);
});
