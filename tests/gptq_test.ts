/**
 * GPTQ against an independent float64 implementation, its golden fixture and its identities, and
 * what it does where it cannot.
 */
import assert from "node:assert/strict";
import type { Backend, Scope, Tensor } from "../src/backend.ts";
import type { Rounded } from "../src/method.ts";
import { gptq } from "../src/methods/gptq.ts";
import { rtn } from "../src/methods/rtn.ts";
import { roundHalfEven } from "../src/number.ts";
import { Statistics } from "../src/observer.ts";
import { gram } from "../src/observers/gram.ts";
import type { Event } from "../src/report.ts";
import type { IntScheme, Scheme } from "../src/scheme.ts";
import { schemeKind } from "../src/schemes/mod.ts";
import { gaussian } from "./conformance/given.ts";
import { onEveryBackend } from "./present.ts";

/** int4 with a scale per row unless said otherwise. */
function int(change: Partial<IntScheme> = {}): IntScheme {
  return {
    kind: "int",
    bits: 4,
    grid: "affine",
    strategy: { kind: "channel" },
    scaleDType: "f32",
    activations: "none",
    ...change,
  };
}

function upload(values: ArrayLike<number>, shape: readonly number[], scope: Scope): Tensor {
  const tensor = scope.alloc("f32", shape);
  scope.backend.write(tensor, new Uint8Array(Float32Array.from(values).buffer));
  return tensor;
}

async function floats(tensor: Tensor, backend: Backend): Promise<Float32Array> {
  const [bytes] = await backend.read(tensor);
  return new Float32Array(bytes!.buffer);
}

/** Statistics of these inputs, T × C. */
async function observe(
  x: ArrayLike<number>,
  channels: number,
  scope: Scope,
): Promise<Statistics> {
  const tokens = x.length / channels;
  const observation = gram.open({ channels, tokens, scope });
  await observation.add(upload(x, [tokens, channels], scope));
  return new Statistics(new Map([[gram, await observation.finish()]]), { channels, tokens });
}

interface Made extends Rounded {
  readonly events: readonly Event[];
  readonly damping: number | undefined;
  readonly fallback: string | undefined;
}

async function round(
  weight: ArrayLike<number>,
  { columns, scheme, statistics, options = {}, scales, scope }: {
    columns: number;
    scheme: Scheme;
    statistics: Statistics;
    options?: Readonly<Record<string, string | number | boolean>>;
    scales?: readonly Float32Array[];
    scope: Scope;
  },
): Promise<Made> {
  const events: Event[] = [];
  const rounder = await gptq.open({
    names: ["w"],
    scheme,
    options,
    statistics,
    scope,
    report: (event) => events.push(event),
  });
  const w = upload(weight, [weight.length / columns, columns], scope);
  const { damping, fallback } = rounder.remarks;
  return { ...await rounder.round({ weight: w, scales, scope }), events, damping, fallback };
}

async function codesOf({ quantized }: Made, backend: Backend): Promise<Int8Array> {
  const [bytes] = await backend.read(quantized.tensors.codes!);
  return new Int8Array(bytes!.buffer);
}

// reference: algorithms.md §6.12, a fixture computed by hand-written float64 code: 2 bits, affine,
// a scale per row, no order, 1 % damping.
const X = [
  ...[2, 1, 0, -1, 1, 1, 1, 0, -1, -2, 2, 1, 3, 2, -1, 0],
  ...[0, -1, 1, 2, 1, 1, 1, 1, 2, 2, 0, 1, -2, -1, 1, 0],
];
const W = [.3, -.55, .2, .9, -.75, .33, .61, -.14, .5, .25, -.25, -1];
const NATURAL = { damping: 0.01, "column-order": "natural", scale: "minmax" };

onEveryBackend("gptq() gives the codes and the loss of the golden fixture", async (backend) => {
  using scope = backend.scope();
  const statistics = await observe(X, 4, scope);
  const scheme = int({ bits: 2 });
  const made = await round(W, { columns: 4, scheme, statistics, options: NATURAL, scope });
  const expected = [[2, 0, 2, 3], [0, 3, 3, 2], [3, 2, 1, 0]].flat();
  assert.deepEqual([...await codesOf(made, backend)].map((code) => code + 2), expected);
  const [scale, zero] = await backend.read(
    made.quantized.tensors.scale!,
    made.quantized.tensors.zero!,
  );
  const scales = [...new Float32Array(scale!.buffer)];
  [0.483333333, 0.453333333, 0.5].forEach((s, i) => assert.ok(Math.abs(scales[i]! - s) < 1e-7));
  assert.deepEqual([...new Int8Array(zero!.buffer)].map((z) => z + 2), [1, 2, 2]);
  // The fixture's H is 2/8·Σxxᵀ; the loss here is of Σxxᵀ.
  const loss = (await floats(made.loss!, backend)).reduce((a, b) => a + b, 0);
  assert.ok(Math.abs(loss * 2 / 8 - 0.332018604) < 1e-6, `${loss}`);
});

/**
 * GPTQ in float64, from the paper's text: H⁻¹ by elimination, its Cholesky factor, a column at a
 * time.
 */
class Independent {
  readonly columns: number;
  readonly damped: Float64Array;
  readonly u: Float64Array;

  constructor(x: ArrayLike<number>, columns: number, order: readonly number[], damping: number) {
    this.columns = columns;
    const h = new Float64Array(columns * columns);
    for (let t = 0; t < x.length / columns; t++) {
      for (let i = 0; i < columns; i++) {
        for (let j = 0; j < columns; j++) {
          h[i * columns + j]! += x[t * columns + order[i]!]! * x[t * columns + order[j]!]!;
        }
      }
    }
    const mean = order.reduce((sum, _, i) => sum + h[i * columns + i]!, 0) / columns;
    for (let i = 0; i < columns; i++) h[i * columns + i]! += damping * mean;
    this.damped = h;
    this.u = this.#upperFactor(this.#inverse(h));
  }

  #inverse(matrix: Float64Array): Float64Array {
    const n = this.columns;
    const a = matrix.slice();
    const inverse = new Float64Array(n * n);
    for (let i = 0; i < n; i++) inverse[i * n + i] = 1;
    for (let p = 0; p < n; p++) {
      const pivot = a[p * n + p]!;
      for (let j = 0; j < n; j++) a[p * n + j]! /= pivot, inverse[p * n + j]! /= pivot;
      for (let i = 0; i < n; i++) {
        const factor = a[i * n + p]!;
        if (i === p || factor === 0) continue;
        for (let j = 0; j < n; j++) {
          a[i * n + j]! -= factor * a[p * n + j]!;
          inverse[i * n + j]! -= factor * inverse[p * n + j]!;
        }
      }
    }
    return inverse;
  }

  /** U with A = Uᵀ·U. */
  #upperFactor(a: Float64Array): Float64Array {
    const n = this.columns;
    const u = new Float64Array(n * n);
    for (let i = 0; i < n; i++) {
      for (let j = i; j < n; j++) {
        let sum = a[i * n + j]!;
        for (let k = 0; k < i; k++) sum -= u[k * n + i]! * u[k * n + j]!;
        u[i * n + j] = j === i ? Math.sqrt(sum) : sum / u[i * n + i]!;
      }
    }
    return u;
  }

  /** One row in its order: values, and how far each weight was from a tie, in steps. */
  row(
    weights: ArrayLike<number>,
    nearest: (weight: number, i: number) => { value: number; slack: number },
  ): { values: number[]; slacks: number[]; loss: number } {
    const n = this.columns;
    const w = Float64Array.from(weights);
    const values: number[] = [];
    const slacks: number[] = [];
    let loss = 0;
    for (let i = 0; i < n; i++) {
      const { value, slack } = nearest(w[i]!, i);
      const error = (w[i]! - value) / this.u[i * n + i]!;
      for (let j = i; j < n; j++) w[j]! -= error * this.u[i * n + j]!;
      loss += error * error / 2;
      values.push(value);
      slacks.push(slack);
    }
    return { values, slacks, loss };
  }
}

/** Inputs with a few large channels, correlated by a random mixing. */
function inputs(tokens: number, columns: number, seed: number): Float64Array {
  const raw = gaussian(tokens * columns, seed);
  const mix = gaussian(columns * columns, seed + 1, 0.4 / Math.sqrt(columns));
  const x = new Float64Array(tokens * columns);
  for (let t = 0; t < tokens; t++) {
    for (let c = 0; c < columns; c++) {
      let sum = raw[t * columns + c]!;
      for (let k = 0; k < columns; k++) sum += raw[t * columns + k]! * mix[k * columns + c]!;
      x[t * columns + c] = Math.fround(sum * (c % 29 === 3 ? 8 : 1));
    }
  }
  return x;
}

for (
  const { order, columns, group, bits, grid } of [
    { order: "act-order", columns: 96, group: 32, bits: 4, grid: "affine" },
    { order: "natural", columns: 150, group: 50, bits: 3, grid: "full" },
    { order: "group-aware", columns: 128, group: 32, bits: 2, grid: "affine" },
    { order: "act-order", columns: 70, group: 70, bits: 8, grid: "restricted" },
  ] as const
) {
  onEveryBackend(
    `gptq() in ${order} with ${bits} bits equals an independent float64 implementation but at ties`,
    async (backend) => {
      using scope = backend.scope();
      const rows = 23;
      const x = inputs(300, columns, 5);
      const weight = gaussian(rows * columns, 9, 0.05);
      const statistics = await observe(x, columns, scope);
      const scheme = int({ bits, grid, strategy: { kind: "group", size: group } });
      const options = { damping: 0.02, "column-order": order, scale: "minmax", sweeps: 0 };
      const made = await round(weight, { columns, scheme, statistics, options, scope });
      const [codes, scales, zeros] = [
        await codesOf(made, backend),
        await floats(made.quantized.tensors.scale!, backend),
        new Int8Array((await backend.read(made.quantized.tensors.zero!))[0]!.buffer),
      ];
      const { diagonal } = statistics.of(gram);
      const places = Array.from({ length: columns }, (_, i) => i);
      const most = (c: number) =>
        Math.max(...diagonal.subarray(c - c % group, c - c % group + group));
      if (order === "act-order") places.sort((a, b) => diagonal[b]! - diagonal[a]! || a - b);
      if (order === "group-aware") {
        places.sort((a, b) =>
          most(b) - most(a) || Math.floor(a / group) - Math.floor(b / group) ||
          diagonal[b]! - diagonal[a]! || a - b
        );
      }
      const definition = new Independent(x, columns, places, 0.02);
      const [low, high] = [
        grid === "restricted" ? -(2 ** (bits - 1)) + 1 : -(2 ** (bits - 1)),
        2 ** (bits - 1) - 1,
      ];
      const losses = await floats(made.loss!, backend);
      let [differing, checked] = [0, 0];
      for (let r = 0; r < rows; r++) {
        const tile = (i: number) => r * columns / group + Math.floor(places[i]! / group);
        const { values, slacks, loss } = definition.row(
          places.map((c) => weight[r * columns + c]!),
          (w, i) => {
            const [scale, zero] = [scales[tile(i)]!, zeros[tile(i)]!];
            const quotient = w / scale;
            const code = Math.min(Math.max(roundHalfEven(quotient) + zero, low), high);
            const slack = Math.abs(Math.abs(quotient - Math.floor(quotient)) - 0.5);
            return { value: (code - zero) * scale, slack };
          },
        );
        const found = places.map((c, i) =>
          (codes[r * columns + c]! - zeros[tile(i)]!) * scales[tile(i)]!
        );
        const first = values.findIndex((value, i) =>
          Math.abs(value - found[i]!) > 1e-5 * Math.abs(scales[tile(i)]!)
        );
        checked++;
        if (first === -1) {
          assert.ok(
            Math.abs(losses[r]! - loss) <= 1e-3 * loss,
            `row ${r}: loss ${losses[r]}, not ${loss}`,
          );
          continue;
        }
        // From a tie on, the errors that are passed on are others, and so may be the codes.
        differing++;
        assert.ok(slacks[first]! < 1e-3, `row ${r}, place ${first}: no tie (${slacks[first]})`);
      }
      assert.ok(differing <= Math.max(1, checked / 5), `${differing} of ${checked} rows met a tie`);
    },
  );
}

onEveryBackend("gptq()'s loss is tr(E·(H + λI)·Eᵀ)/2 of what it wrote", async (backend) => {
  using scope = backend.scope();
  const [rows, columns] = [11, 96];
  const x = inputs(200, columns, 3);
  const weight = gaussian(rows * columns, 4, 0.05);
  const statistics = await observe(x, columns, scope);
  for (const scheme of [int({ strategy: { kind: "group", size: 32 } }), int({ bits: 2 })]) {
    const made = await round(weight, { columns, scheme, statistics, scope });
    const values = await floats(schemeKind(scheme).dequantize(made.quantized, scope), backend);
    const natural = Array.from({ length: columns }, (_, i) => i);
    const { damped } = new Independent(x, columns, natural, made.damping!);
    const losses = await floats(made.loss!, backend);
    for (let r = 0; r < rows; r++) {
      let loss = 0;
      for (let i = 0; i < columns; i++) {
        for (let j = 0; j < columns; j++) {
          const [a, b] = [i, j].map((c) => values[r * columns + c]! - weight[r * columns + c]!);
          loss += a! * damped[i * columns + j]! * b! / 2;
        }
      }
      assert.ok(Math.abs(losses[r]! - loss) <= 1e-4 * loss, `row ${r}: ${losses[r]}, not ${loss}`);
    }
  }
});

onEveryBackend("gptq() with an identity Gram matrix equals rtn()", async (backend) => {
  using scope = backend.scope();
  const [rows, columns] = [5, 64];
  const identity = Float64Array.from(
    { length: columns * columns },
    (_, i) => i % (columns + 1) ? 0 : 1,
  );
  const weight = gaussian(rows * columns, 8);
  const statistics = await observe(identity, columns, scope);
  const scheme = int({ strategy: { kind: "group", size: 16 } });
  const made = await round(weight, {
    columns,
    scheme,
    statistics,
    options: { scale: "minmax" },
    scope,
  });
  const plain = await rtn.open({ names: [], scheme, options: {}, scope, report: () => {} });
  const rounded = await plain.round({ weight: upload(weight, [rows, columns], scope), scope });
  const [codes] = await backend.read(rounded.quantized.tensors.codes!);
  assert.deepEqual(await codesOf(made, backend), new Int8Array(codes!.buffer));
});

onEveryBackend(
  "gptq() of slices of rows equals that of the whole, also with scaled inputs",
  async (backend) => {
    using scope = backend.scope();
    const columns = 96;
    const weight = gaussian(16 * columns, 2, 0.1);
    const statistics = await observe(inputs(150, columns, 7), columns, scope);
    const scheme = int({ grid: "full", strategy: { kind: "group", size: 32 } });
    const scales = Float32Array.from({ length: columns }, (_, c) => 0.5 + (c % 7) / 4);
    const given = { columns, scheme, statistics, scales: [scales], scope };
    const whole = await codesOf(await round(weight, given), backend);
    const parts = await Promise.all(
      [[0, 5], [5, 16]].map(async (
        [from, to],
      ) => [
        ...await codesOf(await round(weight.slice(from! * columns, to! * columns), given), backend),
      ]),
    );
    assert.deepEqual(parts.flat(), [...whole]);
  },
);

/** tr(E·H·Eᵀ) of a result. */
async function outputError(
  { quantized }: Rounded,
  { weight, x, columns, scope }: {
    weight: ArrayLike<number>;
    x: ArrayLike<number>;
    columns: number;
    scope: Scope;
  },
): Promise<number> {
  const values = await floats(
    schemeKind(quantized.scheme).dequantize(quantized, scope),
    scope.backend,
  );
  let error = 0;
  for (let r = 0; r < weight.length / columns; r++) {
    for (let t = 0; t < x.length / columns; t++) {
      let sum = 0;
      for (let c = 0; c < columns; c++) {
        sum += (values[r * columns + c]! - weight[r * columns + c]!) * x[t * columns + c]!;
      }
      error += sum * sum;
    }
  }
  return error;
}

for (
  const [name, scheme] of [
    ["int4", int({ strategy: { kind: "group", size: 32 } })],
    ["int3, symmetric", int({ bits: 3, grid: "full", strategy: { kind: "group", size: 32 } })],
    ["int4 in blocks", int({ grid: "full", strategy: { kind: "block", rows: 4, columns: 32 } })],
    ["nf4", { kind: "nf4", block: 32, doubleQuant: true }],
    ["fp4", { kind: "fp4", block: 32, doubleQuant: false }],
    ["fp8", {
      kind: "fp8",
      strategy: { kind: "channel" },
      scaleDType: "bf16",
      activations: "none",
    }],
  ] as const
) {
  onEveryBackend(`gptq() of ${name} has less output error than rtn()`, async (backend) => {
    using scope = backend.scope();
    const [rows, columns] = [16, 96];
    const x = inputs(400, columns, 11);
    const weight = gaussian(rows * columns, 12, 0.05);
    const statistics = await observe(x, columns, scope);
    const made = await round(weight, { columns, scheme, statistics, scope });
    const plain = await rtn.open({ names: [], scheme, options: {}, scope, report: () => {} });
    const rounded = await plain.round({ weight: upload(weight, [rows, columns], scope), scope });
    const given = { weight, x, columns, scope };
    const [own, other] = [await outputError(made, given), await outputError(rounded, given)];
    assert.ok(own < 0.8 * other, `${own} against ${other}`);
  });
}

onEveryBackend("gptq() leaves channels that are always 0 out of everything", async (backend) => {
  using scope = backend.scope();
  const columns = 64;
  const x = inputs(100, columns, 21).map((value, i) => i % columns === 5 ? 0 : value);
  const weight = gaussian(3 * columns, 22).map((value, i) => i % columns === 5 ? 1e4 : value);
  const statistics = await observe(x, columns, scope);
  const made = await round(weight, { columns, scheme: int(), statistics, scope });
  const values = await floats(schemeKind(int()).dequantize(made.quantized, scope), backend);
  values.forEach((value, i) => {
    if (i % columns === 5) assert.equal(value, 0);
    else assert.ok(Math.abs(value - weight[i]!) < 2, `${value}`);
  });
});

onEveryBackend(
  "gptq() damps more where rounding asks for it and says so, and falls back to rtn with an event",
  async (backend) => {
    using scope = backend.scope();
    // What inputs cannot give: a symmetric matrix that is far from positive definite.
    const matrix = (off: number) => {
      const tensor = upload([1, 0, off, 0, 1, 0, off, 0, 1], [3, 3], scope);
      const sums = {
        size: 3,
        panels: [{ first: 0, rows: 3, tensor }],
        tokens: 9,
        diagonal: Float32Array.of(1, 1, 1),
      };
      return new Statistics(new Map([[gram, sums]]), { channels: 3, tokens: 9 });
    };
    const weight = [0.3, -0.2, 0.1];
    const given = { columns: 3, scheme: int(), scope };
    const damped = await round(weight, { ...given, statistics: matrix(1.15) });
    assert.equal(damped.damping, 0.2);
    assert.equal(damped.fallback, undefined);
    const [warning] = damped.events;
    assert.ok(warning?.type === "warning" && warning.code === "damping");
    assert.match(
      warning.message,
      /Hessian of w could be factored only with a damping of 0\.2, not 0\.1/,
    );

    const statistics = matrix(40);
    const fallen = await round(weight, { ...given, statistics });
    assert.match(fallen.fallback ?? "", /cannot be factored/);
    const [event] = fallen.events;
    assert.ok(event?.type === "warning" && event.code === "fallback");
    assert.match(event.message, /w are rounded to nearest/);
    const request = { ...given, statistics, names: [], options: {}, report: () => {} };
    const plain = await rtn.open(request);
    const rounded = await plain.round({ weight: upload(weight, [1, 3], scope), scope });
    const [codes] = await backend.read(rounded.quantized.tensors.codes!);
    assert.deepEqual(await codesOf(fallen, backend), new Int8Array(codes!.buffer));
  },
);

Deno.test("gptq takes every grid that has one, and says which schemes have none", () => {
  assert.equal(gptq.supports(int(), {}), true);
  assert.match(String(gptq.supports({ kind: "llm_int8", threshold: 6 }, {})), /not llm_int8/);
  const nf4 = { kind: "nf4", block: 64, doubleQuant: true } as const;
  assert.equal(gptq.supports(nf4, {}), true);
  assert.match(String(gptq.supports(nf4, { scale: "mse" })), /only those of int/);
});
