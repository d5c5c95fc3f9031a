/**
 * What follows GPTQ: sweeps and refitted scales only ever lower what an error costs, and leave
 * alone what cannot be better.
 */
import assert from "node:assert/strict";
import type { Backend, Scope, Tensor } from "../src/backend.ts";
import { gptq } from "../src/methods/gptq.ts";
import { Statistics } from "../src/observer.ts";
import { gram } from "../src/observers/gram.ts";
import type { OptionValues } from "../src/option.ts";
import type { IntScheme, Scheme } from "../src/scheme.ts";
import { schemeKind } from "../src/schemes/mod.ts";
import { gaussian } from "./conformance/given.ts";
import { onEveryBackend } from "./present.ts";
import { withOwn } from "./run_given.ts";

const DAMPING = 0.02;

function int(bits: IntScheme["bits"], options: Partial<IntScheme> = {}): IntScheme {
  return {
    kind: "int",
    bits,
    grid: "full",
    strategy: { kind: "group", size: 50 },
    scaleDType: "bf16",
    activations: "none",
    ...options,
  };
}

/** A weight f32[R, C] and inputs f32[T, C]. */
interface Layer {
  readonly rows: number;
  readonly columns: number;
  readonly weight: Float32Array<ArrayBuffer>;
  readonly inputs: Float32Array<ArrayBuffer>;
  /** What the inputs' channels are divided by, and the weight is multiplied by before it is rounded. */
  readonly scales?: Float32Array;
}

/** Inputs that depend on each other, two of them large, one always 0. */
function layer(rows: number, columns: number, tokens = 3 * columns): Layer {
  const noise = gaussian(tokens * columns, 11);
  const inputs = noise.map((x, i) => {
    const c = i % columns;
    if (c === 7 % columns && columns > 8) return 0;
    return (x + (c > 0 ? 0.9 * noise[i - 1]! : 0)) * (c % 61 === 5 ? 12 : 1);
  });
  return { rows, columns, weight: gaussian(rows * columns, 12, 0.05), inputs };
}

/** What came of a layer, and what its error costs: ½·tr(E·H'·Eᵀ) in float64. */
interface Outcome {
  readonly codes: number[];
  readonly scales: number[];
  readonly loss: number;
  readonly cost: number;
}

async function round(
  { rows, columns, weight, inputs, scales }: Layer,
  scheme: Scheme,
  { options, backend, slices = [rows] }: {
    options: OptionValues;
    backend: Backend;
    slices?: readonly number[];
  },
): Promise<Outcome> {
  using scope = backend.scope();
  const observation = gram.open({ channels: columns, tokens: inputs.length / columns, scope });
  await observation.add(upload(inputs, [inputs.length / columns, columns], scope));
  const sums = await observation.finish();
  const rounder = await gptq.open({
    names: ["w"],
    scheme,
    options: { damping: DAMPING, sweeps: 0, ...options },
    statistics: new Statistics(new Map([[gram, sums]]), { channels: columns, tokens: sums.tokens }),
    scope,
    report: () => {},
  });
  const outcome = { codes: [] as number[], scales: [] as number[], loss: 0, cost: 0 };
  const values: number[] = [];
  for (let from = 0, i = 0; from < rows; from += slices[i++]!) {
    const slice = weight.slice(from * columns, (from + slices[i]!) * columns);
    const { quantized, loss } = await rounder.round({
      weight: upload(slice, [slices[i]!, columns], scope),
      scales: scales && [scales],
      scope,
    });
    const { codes, scale, absmax } = quantized.tensors;
    const [c, s, l, v] = await backend.read(
      codes!,
      (scale ?? absmax)!,
      loss!,
      schemeKind(scheme).dequantize(quantized, scope),
    );
    outcome.codes.push(...c!);
    outcome.scales.push(...new Float32Array(s!.buffer));
    outcome.loss += new Float32Array(l!.buffer).reduce((a, b) => a + b, 0);
    values.push(
      ...new Float32Array(v!.buffer).map((value, i) => value / (scales?.[i % columns] ?? 1)),
    );
  }
  assert.equal(rounder.remarks.damping, DAMPING);
  outcome.cost = cost({ rows, columns, weight, inputs }, values);
  return outcome;
}

/** H = Σ x·xᵀ of each layer's inputs in float64, by those inputs: every step of polishing asks for it. */
const grams = new Map<Layer["inputs"], Float64Array>();

function gramOf({ columns, inputs }: Layer): Float64Array {
  const h = new Float64Array(columns * columns);
  for (let t = 0; t < inputs.length; t += columns) {
    for (let i = 0; i < columns; i++) {
      for (let j = 0; j < columns; j++) {
        h[i * columns + j]! += inputs[t + i]! * inputs[t + j]!;
      }
    }
  }
  return h;
}

/** ½·tr(E·H'·Eᵀ) of some values, without scales. */
function cost(layer: Layer, values: readonly number[]): number {
  const { rows, columns, weight, inputs } = layer;
  const h = grams.getOrInsertComputed(inputs, () => gramOf(layer));
  const squares = Array.from({ length: columns }, (_, c) => h[c * columns + c]!);
  const live = squares.filter((square) => square > 0).sort((a, b) => a - b);
  const mean = squares.reduce((a, b) => a + b) / columns;
  const lambda = DAMPING * Math.min(mean, 10 * live[live.length >> 1]!);
  let sum = 0;
  for (let r = 0; r < rows; r++) {
    const e = squares.map((square, c) =>
      square === 0 ? 0 : values[r * columns + c]! - weight[r * columns + c]!
    );
    for (let i = 0; i < columns; i++) {
      for (let j = 0; j < columns; j++) sum += e[i]! * e[j]! * h[i * columns + j]! / 2;
      sum += lambda * e[i]! ** 2 / 2;
    }
  }
  return sum;
}

function upload(values: Float32Array<ArrayBuffer>, shape: readonly number[], scope: Scope): Tensor {
  const tensor = scope.alloc("f32", shape);
  scope.backend.write(tensor, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  return tensor;
}

/** Steps of polishing, each adding to the one before. */
const STEPS: readonly OptionValues[] = [
  { sweeps: 0 },
  { sweeps: 1 },
  { sweeps: 2 },
  { sweeps: 5 },
  { sweeps: 5, refit: true },
];

const scaled = (made: Layer): Layer => {
  const scales = gaussian(made.columns, 13).map((x) => 0.4 + Math.abs(x));
  return { ...made, scales };
};

for (
  const [what, scheme, made, panel] of [
    ["int3, groups", int(3), layer(13, 150), Infinity],
    ["int3, groups, scales moved, in panels", int(3), scaled(layer(13, 150)), 64],
    ["int2, affine", int(2, { grid: "affine" }), layer(6, 150), Infinity],
    [
      "int4, a scale per channel, f16",
      int(4, {
        strategy: { kind: "channel" },
        scaleDType: "f16",
      }),
      scaled(layer(5, 131)),
      64,
    ],
    [
      "int4, groups across panels",
      int(4, { strategy: { kind: "group", size: 96 } }),
      layer(7, 192),
      64,
    ],
    [
      "int4, blocks",
      int(4, { strategy: { kind: "block", rows: 4, columns: 50 } }),
      layer(8, 150),
      Infinity,
    ],
    ["int4, more columns than a span", int(4), layer(3, 650, 80), Infinity],
    ["int4, spans across panels", int(4), layer(3, 650, 80), 256],
    ["nf4", { kind: "nf4", block: 32, doubleQuant: false }, layer(9, 96), Infinity],
    [
      "fp8",
      { kind: "fp8", strategy: { kind: "channel" }, scaleDType: "f32", activations: "none" },
      scaled(layer(5, 70)),
      Infinity,
    ],
  ] as const satisfies readonly (readonly [string, Scheme, Layer, number])[]
) {
  onEveryBackend(`polishing never raises what an error costs: ${what}`, async (device) => {
    const backend = panel === Infinity
      ? device
      : withOwn(device, { maxTensorBytes: made.columns * 4 * panel });
    const outcomes = [];
    for (const options of STEPS) {
      if (gptq.supports(scheme, options) !== true) continue;
      outcomes.push(await round(made, scheme, { options, backend }));
    }
    for (const [i, { cost, loss }] of outcomes.entries()) {
      // GPTQ's loss is the cost exactly, and what it loses later is counted.
      assert.ok(Math.abs(loss - cost) <= 2e-4 * cost, `${i}: the loss is ${loss}, not ${cost}`);
      const before = outcomes[i - 1];
      if (before) assert.ok(cost <= before.cost * (1 + 1e-6), `${i}: ${before.cost} → ${cost}`);
    }
    assert.ok(outcomes.at(-1)!.cost < outcomes[0]!.cost, "nothing was gained");
    const [swept, refitted] = outcomes.slice(3);
    if (!refitted) return;
    assert.deepEqual(refitted.codes, swept!.codes);
    assert.notDeepEqual(refitted.scales, swept!.scales);
    assert.ok(refitted.cost < swept!.cost);
  });
}

onEveryBackend(
  "inputs that do not depend on each other leave nothing for sweeps to do",
  async (backend) => {
    const columns = 100;
    const inputs = Float32Array.from(
      { length: columns * columns },
      (_, i) => i % (columns + 1) === 0 ? 1 + i % 3 : 0,
    );
    const made = { rows: 9, columns, weight: gaussian(900, 14), inputs };
    const plain = await round(made, int(3), { options: {}, backend });
    const swept = await round(made, int(3), { options: { sweeps: 3 }, backend });
    assert.deepEqual(swept, plain);
    // Of values that are on the grid already, no scale can be better either.
    const { codes, scales } = plain;
    const signed = new Int8Array(Uint8Array.from(codes).buffer);
    const exact = {
      ...made,
      weight: Float32Array.from(signed, (code, i) => code * scales[Math.floor(i / 50)]!),
    };
    const options = { scale: "minmax", sweeps: 1, refit: true };
    const affine = int(4, { grid: "affine", scaleDType: "f32" });
    const once = await round(exact, affine, { options: { scale: "minmax" }, backend });
    const polished = await round(exact, affine, { options, backend });
    assert.deepEqual(polished.codes, once.codes);
    assert.ok(polished.cost <= once.cost);
  },
);

onEveryBackend("slices of rows are polished as the whole", async (backend) => {
  const made = layer(11, 150);
  const options = { sweeps: 2, refit: true };
  const whole = await round(made, int(3), { options, backend });
  const { codes, scales } = await round(made, int(3), { options, backend, slices: [4, 1, 6] });
  assert.deepEqual(codes, whole.codes);
  assert.deepEqual(scales, whole.scales);
});

/**
 * Computed apart in float64; the best codes of this grid by trying all of them cost 0.293130410.
 */
onEveryBackend("sweeps lie between GPTQ and the best codes on a known layer", async (backend) => {
  const inputs = [
    ...[[2, 1, 0, -1], [1, 1, 1, 0], [-1, -2, 2, 1], [3, 2, -1, 0]],
    ...[[0, -1, 1, 2], [1, 1, 1, 1], [2, 2, 0, 1], [-2, -1, 1, 0]],
  ];
  const weight = [[0.3, -0.55, 0.2, 0.9], [-0.75, 0.33, 0.61, -0.14], [0.5, 0.25, -0.25, -1]];
  const made = {
    rows: 3,
    columns: 4,
    weight: Float32Array.from(weight.flat()),
    // H = 2/8·Σ x·xᵀ
    inputs: Float32Array.from(inputs.flat(), (x) => x / 2),
  };
  const scheme = int(2, { grid: "affine", strategy: { kind: "channel" }, scaleDType: "f32" });
  const options = { damping: 0.01, scale: "minmax", "column-order": "natural", sweeps: 0 };
  const run = async (more: OptionValues) => {
    using scope = backend.scope();
    const observation = gram.open({ channels: 4, tokens: 8, scope });
    await observation.add(upload(made.inputs, [8, 4], scope));
    const sums = await observation.finish();
    const statistics = new Statistics(new Map([[gram, sums]]), { channels: 4, tokens: 8 });
    const request = { names: ["w"], scheme, statistics, scope, report: () => {} };
    const rounder = await gptq.open({ ...request, options: { ...options, ...more } });
    const { quantized, loss } = await rounder.round({
      weight: upload(made.weight, [3, 4], scope),
      scope,
    });
    const [codes, losses] = await backend.read(quantized.tensors.codes!, loss!);
    return {
      codes: [...new Int8Array(codes!.buffer)].map((code) => code + 2),
      loss: new Float32Array(losses!.buffer).reduce((a, b) => a + b, 0),
    };
  };
  const plain = await run({});
  assert.deepEqual(plain.codes, [2, 0, 2, 3, 0, 3, 3, 2, 3, 2, 1, 0]);
  assert.ok(Math.abs(plain.loss - 0.332018604) < 2e-6, `GPTQ's loss is ${plain.loss}`);
  const swept = await run({ sweeps: 4 });
  assert.ok(swept.loss <= plain.loss + 1e-6 && swept.loss >= 0.29313, `${swept.loss}`);
});

Deno.test("scales that belong to several rows, or are none of int, are not refitted", () => {
  const verdict = (scheme: Scheme) => gptq.supports(scheme, { refit: true });
  assert.equal(verdict(int(4)), true);
  assert.equal(verdict(int(4, { strategy: { kind: "channel" } })), true);
  assert.match(String(verdict(int(4, { strategy: { kind: "tensor" } }))), /not per tensor/);
  const block = { kind: "block", rows: 4, columns: 4 } as const;
  assert.match(String(verdict(int(4, { strategy: block }))), /not per block/);
  const nf4 = { kind: "nf4", block: 64, doubleQuant: false } as const;
  assert.match(String(verdict(nf4)), /of int are refitted, not of nf4/);
  assert.equal(gptq.supports(nf4, { sweeps: 3 }), true);
});
