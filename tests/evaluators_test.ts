/**
 * Perplexity and KL divergence: the evaluators against hand-made scores, and the scoring of a head
 * against float64 softmax.
 */
import assert from "node:assert/strict";
import type { Backend, Scope, Tensor } from "../src/backend.ts";
import type { TokenScores } from "../src/evaluator.ts";
import { EVALUATORS, type HeadJob, scoreHead } from "../src/evaluators/mod.ts";
import { matmulNt } from "../src/ops/mod.ts";
import { gaussian, uniform } from "./conformance/given.ts";
import { onEveryBackend } from "./present.ts";

function evaluator(name: string) {
  const found = EVALUATORS.find((candidate) => candidate.name === name);
  assert.ok(found, name);
  return found;
}

function close(got: number, want: number, tolerance: number): void {
  assert.ok(Math.abs(got - want) <= tolerance, `${got} is not ${want} within ${tolerance}`);
}

Deno.test("the perplexity of a uniform guess among 8 words is 8", () => {
  const nll = new Float64Array(10).fill(Math.log(8));
  const scores = evaluator("perplexity").score({
    perWindow: 5,
    originalNll: nll,
    quantizedNll: nll,
    divergence: new Float64Array(10),
    sameTop: new Uint8Array(10),
  });
  assert.deepEqual(Object.keys(scores), ["perplexity", "nll"]);
  close(scores.perplexity!, 8, 1e-12);
  close(scores.nll!, Math.log(8), 1e-12);
});

Deno.test("perplexity is the exponential of the mean, of each model on its own", () => {
  const scores = evaluator("perplexity").score({
    perWindow: 2,
    originalNll: Float64Array.of(1, 2),
    quantizedNll: Float64Array.of(2, 4),
    divergence: new Float64Array(2),
    sameTop: new Uint8Array(2),
  });
  close(scores.perplexity!, Math.exp(3), 1e-12);
  close(scores.original_perplexity!, Math.exp(1.5), 1e-12);
  assert.equal(scores.nll, 3);
  assert.equal(scores.original_nll, 1.5);
});

Deno.test("the divergence's percentiles are numpy's, its standard error that of independent tokens", () => {
  const values = Float64Array.from({ length: 1001 }, (_, i) => ((i * 5) % 1001) / 1000);
  const { mean, standard_error, median, p90, p95, p99, p99_9, max, same_top_percent } = evaluator(
    "divergence",
  ).score({
    perWindow: 1001,
    originalNll: values,
    quantizedNll: values,
    divergence: values,
    sameTop: Uint8Array.from(values, (_, i) => i % 4 === 0 ? 0 : 1),
  });
  close(mean!, 0.5, 1e-12);
  // The variance of 0 … n−1 with Bessel's correction is n(n+1)/12.
  close(standard_error!, Math.sqrt(1001 * 1002 / 12) / 1000 / Math.sqrt(1001), 1e-12);
  close(median!, 0.5, 1e-12);
  close(p90!, 0.9, 1e-12);
  close(p95!, 0.95, 1e-12);
  close(p99!, 0.99, 1e-12);
  close(p99_9!, 0.999, 1e-12);
  assert.equal(max, 1);
  close(same_top_percent!, 100 * 750 / 1001, 1e-9);
  assert.equal(evaluator("divergence").paired, true);
});

Deno.test("no scored token is an error, not a perplexity", () => {
  const none = new Float64Array(0);
  const scores: TokenScores = {
    perWindow: 0,
    originalNll: none,
    quantizedNll: none,
    divergence: none,
    sameTop: new Uint8Array(0),
  };
  for (const { score } of EVALUATORS) assert.throws(() => score(scores), /no token was scored/);
});

/** A toy head: hidden states [T, C] of two streams and a head [V, C] for each. */
const T = 6;
const C = 8;
const V = 101;
const WINDOWS = 3;

interface Toy {
  readonly windows: readonly Uint32Array[];
  readonly states: Readonly<Record<"original" | "quantized", readonly Float32Array<ArrayBuffer>[]>>;
  readonly heads: Readonly<Record<"original" | "quantized", Float32Array<ArrayBuffer>>>;
}

function makeToy(noise: number): Toy {
  const next = uniform(11);
  const windows = Array.from(
    { length: WINDOWS },
    () => Uint32Array.from({ length: T }, () => Math.floor(next() * V)),
  );
  const original = windows.map((_, i) => gaussian(T * C, 20 + i));
  const head = gaussian(V * C, 40);
  const nudge = (values: Float32Array<ArrayBuffer>, seed: number) => {
    const by = gaussian(values.length, seed, noise);
    return values.map((value, i) => value + by[i]!);
  };
  return {
    windows,
    states: { original, quantized: original.map((values, i) => nudge(values, 60 + i)) },
    heads: { original: head, quantized: nudge(head, 80) },
  };
}

function toyJob(
  toy: Toy,
  { backend, paired, ...rest }: { backend: Backend; paired: boolean } & Partial<HeadJob>,
): HeadJob {
  const upload = (values: Float32Array<ArrayBuffer>, scope: Scope): Tensor => {
    const tensor = scope.alloc("f32", [values.length / C, C]);
    backend.write(tensor, new Uint8Array(values.slice().buffer));
    return tensor;
  };
  return {
    backend,
    windows: toy.windows,
    vocabSize: V,
    rowsPerSlice: V,
    logitBytes: Infinity,
    // deno-lint-ignore require-await
    async loadHead({ from, to }, scope) {
      const product = (stream: "original" | "quantized") => {
        const w = upload(toy.heads[stream].slice(from * C, to * C), scope);
        return (x: Tensor, y: Tensor) => backend.run(matmulNt, { x, w, y }, { column: 0 });
      };
      return paired
        ? { original: product("original"), quantized: product("quantized") }
        : { original: product("original") };
    },
    hidden: (stream, window, scope) => Promise.resolve(upload(toy.states[stream][window]!, scope)),
    ...rest,
  };
}

/** The same numbers directly: log-softmax of float64 logits. */
function direct({ windows, states, heads }: Toy): TokenScores {
  const logProbabilities = (stream: "original" | "quantized", window: number, row: number) => {
    const x = states[stream][window]!.subarray(row * C, row * C + C);
    const logits = Array.from(
      { length: V },
      (_, v) => x.reduce((sum, value, c) => sum + value * heads[stream][v * C + c]!, 0),
    );
    const most = Math.max(...logits);
    const logZ = most + Math.log(logits.reduce((sum, value) => sum + Math.exp(value - most), 0));
    return logits.map((value) => value - logZ);
  };
  const originalNll: number[] = [];
  const quantizedNll: number[] = [];
  const divergence: number[] = [];
  const sameTop: number[] = [];
  windows.forEach((ids, window) => {
    for (let row = 0; row < T - 1; row++) {
      const p = logProbabilities("original", window, row);
      const q = logProbabilities("quantized", window, row);
      const label = ids[row + 1]!;
      originalNll.push(-p[label]!);
      quantizedNll.push(-q[label]!);
      divergence.push(p.reduce((sum, value, v) => sum + Math.exp(value) * (value - q[v]!), 0));
      const top = (values: number[]) => values.indexOf(Math.max(...values));
      sameTop.push(top(p) === top(q) ? 1 : 0);
    }
  });
  return {
    perWindow: T - 1,
    originalNll: Float64Array.from(originalNll),
    quantizedNll: Float64Array.from(quantizedNll),
    divergence: Float64Array.from(divergence),
    sameTop: Uint8Array.from(sameTop),
  };
}

/**
 * With u = 2^-24: a logit is a sum of C products, off by (C + 1)·u·Σ|x·w|, at most some 9u·20; an
 * exponential, a sum of 101 terms and the rescaling of slices add some 120u relatively; a GPU's exp
 * may be off by 2^-21 or so at these sizes. 10^-4 holds it all with room.
 */
const TOLERANCE = 1e-4;

function assertScores(got: TokenScores, want: TokenScores): void {
  assert.equal(got.perWindow, want.perWindow);
  for (const name of ["originalNll", "quantizedNll", "divergence"] as const) {
    assert.equal(got[name].length, WINDOWS * (T - 1));
    got[name].forEach((value, i) => close(value, want[name][i]!, TOLERANCE));
  }
  assert.deepEqual(got.sameTop, want.sameTop);
}

onEveryBackend(
  "scores of a head in slices of any size equal softmax in float64",
  async (backend) => {
    const toy = makeToy(0.1);
    const want = direct(toy);
    assert.ok(want.sameTop.includes(0) && want.sameTop.includes(1));
    for (const rowsPerSlice of [V, 50, 7]) {
      assertScores(await scoreHead(toyJob(toy, { backend, paired: true, rowsPerSlice })), want);
    }
    // A budget for the logits cuts slices too, in steps of rows.
    const calls: string[] = [];
    const job = toyJob(toy, { backend, paired: true, logitBytes: 4 * T * 30, rowStep: 8 });
    const got = await scoreHead({
      ...job,
      loadHead(rows, scope) {
        calls.push(`${rows.from}-${rows.to}`);
        return job.loadHead(rows, scope);
      },
    });
    assertScores(got, want);
    assert.deepEqual(calls, ["0-24", "24-48", "48-72", "72-96", "96-101"]);
  },
);

onEveryBackend(
  "one model scored alone has its NLL, no divergence, and always the same top",
  async (backend) => {
    const toy = makeToy(0.1);
    const got = await scoreHead(toyJob(toy, { backend, paired: false, rowsPerSlice: 20 }));
    const want = direct(toy);
    got.originalNll.forEach((value, i) => close(value, want.originalNll[i]!, TOLERANCE));
    assert.equal(got.quantizedNll, got.originalNll);
    assert.ok(got.divergence.every((value) => value === 0));
    assert.ok(got.sameTop.every((value) => value === 1));
  },
);

onEveryBackend(
  "a divergence is never negative by rounding, and tiny ones keep their mean",
  async (backend) => {
    const toy = makeToy(1e-3);
    const got = await scoreHead(toyJob(toy, { backend, paired: true, rowsPerSlice: 13 }));
    assert.ok(got.divergence.every((value) => value >= 0));
    const mean = (values: Float64Array) =>
      values.reduce((sum, value) => sum + value) / values.length;
    // Of some 1e-5, while single tokens may be off by 1e-6.
    close(mean(got.divergence), mean(direct(toy).divergence), 1e-6);
  },
);

onEveryBackend("progress counts every window of every slice", async (backend) => {
  const seen: number[] = [];
  await scoreHead(
    toyJob(makeToy(0.1), {
      backend,
      paired: false,
      rowsPerSlice: 51,
      progress(done, total) {
        seen.push(done);
        assert.equal(total, 2 * WINDOWS);
      },
    }),
  );
  assert.deepEqual(seen, [1, 2, 3, 4, 5, 6]);
});

onEveryBackend(
  "windows of unequal length and tokens outside the vocabulary are refused",
  async (backend) => {
    const job = toyJob(makeToy(0.1), { backend, paired: false });
    const wrong: [readonly Uint32Array[], RegExp][] = [
      [[], /got 0 windows of no tokens/],
      [[Uint32Array.of(1)], /windows of 1 tokens/],
      [[Uint32Array.of(1, 2), Uint32Array.of(1, 2, 3)], /2 windows of 2, 3 tokens/],
      [[Uint32Array.of(1, V)], /token 101, but the model knows 101/],
    ];
    for (const [windows, pattern] of wrong) {
      await assert.rejects(scoreHead({ ...job, windows }), pattern);
    }
  },
);
