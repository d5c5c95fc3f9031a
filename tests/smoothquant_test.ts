/**
 * SmoothQuant: its formula, its search against the definition, exactness of what it moves, and what
 * it gains.
 */
import assert from "node:assert/strict";
import type { Backend, Scope } from "../src/backend.ts";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { CheckpointError } from "../src/errors.ts";
import { evaluate } from "../src/evaluate.ts";
import type { SmoothableWeight, SmoothingRequest } from "../src/method.ts";
import { chainNamed } from "../src/methods/mod.ts";
import { smoothquant } from "../src/methods/smoothquant.ts";
import { roundHalfEven } from "../src/number.ts";
import { type Observer, Statistics } from "../src/observer.ts";
import { absmax } from "../src/observers/absmax.ts";
import { tokenSample } from "../src/observers/token_sample.ts";
import type { OptionValues } from "../src/option.ts";
import type { Scheme } from "../src/scheme.ts";
import { presetScheme } from "../src/schemes/mod.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { recognize } from "../src/formats/mod.ts";
import { schemeKind } from "../src/schemes/mod.ts";
import { verify } from "../src/verify.ts";
import { EVALUATION, floatsOf, loudLlama, type Opened, quantizeLoud } from "./loud_given.ts";
import { gaussian } from "./conformance/given.ts";
import { onEveryBackend } from "./present.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

const W8A8 = presetScheme("W8A8", { modelDType: "f32" }).scheme;
const CHANNELS = 24;

/** Weights of two linears, f32[40, 24] and f32[200, 24]; channel 4 is read by neither. */
const WEIGHTS = [40, 200].map((rows, i) =>
  gaussian(rows * CHANNELS, 10 + i).map((value, k) => k % CHANNELS === 4 ? 0 : value)
);

/** Inputs f32[60, 24]: channel 2 is large, channel 9 always 0. */
const INPUTS = gaussian(60 * CHANNELS, 12).map((value, i) => {
  const channel = i % CHANNELS;
  return channel === 2 ? 40 * value : channel === 9 ? 0 : value;
});

/** What smoothquant says of weights and inputs. */
async function scaled(
  backend: Backend,
  { inputs = INPUTS, options = {}, shared, scheme = W8A8 }: {
    inputs?: Float32Array<ArrayBuffer>;
    options?: OptionValues;
    shared?: Uint32Array;
    scheme?: Scheme;
  } = {},
): ReturnType<typeof smoothquant.smooth> {
  using scope = backend.scope();
  const upload = (values: Float32Array<ArrayBuffer>, into: Scope) => {
    const tensor = into.alloc("f32", [values.length / CHANNELS, CHANNELS]);
    backend.write(tensor, new Uint8Array(values.buffer));
    return tensor;
  };
  const weights = WEIGHTS.map((values, i): SmoothableWeight => ({
    name: `linear.${i}.weight`,
    rows: values.length / CHANNELS,
    scheme,
    take: (ids, into) =>
      upload(
        Float32Array.from([...ids].flatMap((id) => [
          ...values.subarray(id * CHANNELS, (id + 1) * CHANNELS),
        ])),
        into,
      ),
    alike: scheme,
    rounder: () => Promise.reject(new Error("smoothquant rounds to nearest by itself")),
  }));
  const most = sizesOf(inputs);
  const results = new Map<Observer, unknown>([
    [absmax, Float32Array.from(most)],
    [tokenSample, upload(inputs, scope)],
  ]);
  const request: SmoothingRequest = {
    weights,
    options,
    statistics: new Statistics(results, { channels: CHANNELS, tokens: inputs.length / CHANNELS }),
    backend,
    shared,
    report: () => {},
  };
  return await smoothquant.smooth(request);
}

/** The largest magnitude of each column. */
function sizesOf(values: Float32Array): number[] {
  return Array.from(
    { length: CHANNELS },
    (_, c) =>
      values.filter((_, i) => i % CHANNELS === c).reduce((m, v) => Math.max(m, Math.abs(v)), 0),
  );
}

/** s = max|X|^α / max|W|^(1−α) in float64. */
function formula(alpha: number, inputs: Float32Array = INPUTS): number[] {
  const sizes = WEIGHTS.map(sizesOf);
  return sizesOf(inputs).map((size, c) => {
    const weight = Math.max(...sizes.map((of) => of[c]!));
    return size === 0 || weight === 0 ? 1 : Math.max(1e-5, size ** alpha / weight ** (1 - alpha));
  });
}

await onEveryBackend(
  "smoothquant's scales are max|X|^α / max|W|^(1−α) over all weights; channels that are dead keep theirs",
  async (backend) => {
    for (const alpha of [0, 0.5, 0.8, 1]) {
      const found = await scaled(backend, { options: { alpha } });
      assert.equal(found!.strength, alpha);
      formula(alpha).forEach((want, c) =>
        assert.ok(Math.abs(found!.scales[c]! - want) <= 1e-6 * want, `channel ${c}`)
      );
      assert.deepEqual([found!.scales[4], found!.scales[9]], [1, 1]);
    }
  },
);

await onEveryBackend(
  "channels that must share a scale get that of the largest among them",
  async (backend) => {
    const shared = Uint32Array.from({ length: CHANNELS }, (_, c) => c % 3);
    const { scales } = (await scaled(backend, { options: { alpha: 0.7 }, shared }))!;
    const [inputs, weights] = [sizesOf(INPUTS), WEIGHTS.map(sizesOf)];
    for (const group of [0, 1, 2]) {
      const of = scales.filter((_, c) => c % 3 === group);
      assert.equal(new Set(of).size, 1);
      const most = (sizes: number[]) => Math.max(...sizes.filter((_, c) => c % 3 === group));
      const want = most(inputs) ** 0.7 / Math.max(...weights.map(most)) ** 0.3;
      assert.ok(Math.abs(of[0]! - want) <= 1e-6 * want);
    }
  },
);

/**
 * Σ |y − ŷ|²/|y|² over tokens and weights, of W8A8 with dynamic activations, on 128 rows; in
 * float64 but for the scales, which are f32.
 */
function errorOf(scales: readonly number[] | undefined, inputs: Float32Array): number {
  const rounded = (values: Float32Array, factor: (c: number) => number) => {
    const out = new Float64Array(values.length);
    for (let from = 0; from < values.length; from += CHANNELS) {
      const row = Array.from({ length: CHANNELS }, (_, c) => values[from + c]! * factor(c));
      const scale = Math.fround(Math.max(...row.map(Math.abs)) / 127.5) || 1;
      row.forEach((value, c) => {
        out[from + c] = Math.min(127, Math.max(-128, roundHalfEven(value / scale))) * scale /
          factor(c);
      });
    }
    return out;
  };
  const x = rounded(inputs, (c) => 1 / (scales?.[c] ?? 1));
  return WEIGHTS.reduce((all, weight) => {
    const rows = weight.length / CHANNELS;
    const count = Math.min(128, rows);
    const w = rounded(weight, (c) => scales?.[c] ?? 1);
    let sum = 0;
    for (let t = 0; t < inputs.length; t += CHANNELS) {
      let [error, size] = [0, 0];
      for (let i = 0; i < count; i++) {
        const r = Math.floor((i + 0.5) * rows / count) * CHANNELS;
        let [y, other] = [0, 0];
        for (let c = 0; c < CHANNELS; c++) {
          y += inputs[t + c]! * weight[r + c]!;
          other += x[t + c]! * w[r + c]!;
        }
        error += (y - other) ** 2;
        size += y ** 2;
      }
      sum += error / size;
    }
    return all + sum;
  }, 0);
}

await onEveryBackend(
  "the strength that is searched for has the least error of the outputs, none included",
  async (backend) => {
    const grid = Array.from({ length: 11 }, (_, i) => i / 10);
    const errors = grid.map((alpha) => errorOf(formula(alpha), INPUTS));
    const least = Math.min(...errors);
    assert.ok(least < errorOf(undefined, INPUTS) / 2, "the case needs smoothing");
    const found = await scaled(backend);
    assert.ok(errors[grid.indexOf(found!.strength)]! <= 1.01 * least, `${found!.strength}`);
    // One token alone gains nothing from a scale by channel that it could not have had itself.
    const flat = new Float32Array(60 * CHANNELS).fill(1);
    const best = Math.min(...grid.map((alpha) => errorOf(formula(alpha, flat), flat)));
    const none = await scaled(backend, { inputs: flat });
    if (best >= errorOf(undefined, flat)) assert.equal(none, undefined);
    else assert.ok(none);
  },
);

Deno.test("smoothquant is for schemes that round activations, and says what is for the others", () => {
  const supports = (name: string) =>
    smoothquant.supports(presetScheme(name, { modelDType: "bf16" }).scheme, {});
  for (const name of ["W8A8", "FP8_DYNAMIC"]) assert.equal(supports(name), true);
  for (const name of ["W4A16", "FP8", "NF4", "LLM_INT8"]) {
    assert.match(
      String(supports(name)),
      /leaves them in float; awq moves scales for weights alone/,
    );
  }
  assert.equal(chainNamed("smoothquant").name, "smoothquant+rtn");
  assert.equal(chainNamed("smoothquant+gptq").name, "smoothquant+gptq");
});

Deno.test("inputs that hold NaN or infinity are named", async () => {
  await using backend = await openWasm({ threads: 1 });
  await assert.rejects(
    scaled(backend, { inputs: INPUTS.with(30, Infinity) }),
    (error) =>
      error instanceof CheckpointError &&
      /the input of "linear\.0\.weight": its channel 6 holds NaN or infinity/.test(error.message),
  );
});

/** The linears of a block by the norm that makes their input. */
const AFTER_NORM = [
  ["input_layernorm", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]],
  ["post_attention_layernorm", ["mlp.gate_proj", "mlp.up_proj"]],
] as const;

/**
 * Linears whose rows make another's input, and the row that makes each channel: pairs of four query
 * heads share a value head of 16.
 */
const AFTER_LINEAR = [
  ["self_attn.v_proj", "self_attn.o_proj", (c: number) => Math.floor(c / 32) * 16 + c % 16],
  ["mlp.up_proj", "mlp.down_proj", (c: number) => c],
] as const;

for (const dtype of ["f32", "bf16"] as const) {
  Deno.test(`a ${dtype} model whose scales were moved, and nothing rounded, gives the same logits; what is stored is that model rounded`, async () => {
    await using model = await loudLlama(dtype);
    await using source = await openCheckpoint(model.path);
    await using backend = await openWasm({ threads: 1 });
    const options = { scheme: "W8A8", method: "smoothquant", alpha: 0.6 };
    await using made = await quantizeLoud(model.path, options, backend);
    const weights = new Map<string, Float32Array>();
    for (const { name } of tinyTensors()) weights.set(name, await floatsOf(source, name));
    const smooth = new Map(weights);
    for (const i of [0, 1]) {
      const block = (name: string) => `model.layers.${i}.${name}.weight`;
      for (const [norm, linears] of AFTER_NORM) {
        const [before, after] = [
          weights.get(block(norm))!,
          await floatsOf(made.output, block(norm)),
        ];
        assert.ok(before.some((value, c) => value !== after[c]));
        smooth.set(block(norm), after);
        for (const linear of linears) {
          const columns = (value: number, k: number) => value * (before[k % 64]! / after[k % 64]!);
          smooth.set(block(linear), weights.get(block(linear))!.map(columns));
        }
      }
      for (const [from, to, rowOf] of AFTER_LINEAR) {
        const factors = await rowFactors(smooth.get(block(from))!, block(from), made, backend);
        assert.ok(factors.some((factor) => Math.abs(factor - 1) > 0.1), from);
        smooth.set(
          block(from),
          smooth.get(block(from))!.map((value, k) => value * factors[Math.floor(k / 64)]!),
        );
        const width = weights.get(block(to))!.length / 64;
        const columns = (value: number, k: number) => value / factors[rowOf(k % width)]!;
        smooth.set(block(to), smooth.get(block(to))!.map(columns));
      }
      for (const linear of [...AFTER_NORM, ...AFTER_LINEAR].flatMap(([, names]) => names)) {
        await checkRounded(smooth.get(block(linear))!, block(linear), made, backend);
      }
    }
    // Both in float32, with what was moved and without.
    const folders = [];
    for (const values of [weights, smooth]) {
      folders.push(
        await makeCheckpoint(tinyTensors("f32"), {
          config: TINY_CONFIG,
          change: (name, bytes) => bytes.set(new Uint8Array(values.get(name)!.slice().buffer)),
        }),
      );
    }
    await using reference = await openCheckpoint(folders[0]!);
    await using other = await openCheckpoint(folders[1]!);
    const scores = await evaluate(other, { backend, reference, evaluation: EVALUATION });
    assert.ok(Math.abs(scores.divergence!.mean!) < 1e-7, `KL ${scores.divergence!.mean}`);
    for (const folder of folders) await Deno.remove(folder, { recursive: true });
  });
}

/** A stored weight: its values and the scale of each row. */
async function stored(
  name: string,
  { output }: Opened,
  backend: Backend,
): Promise<{ values: Float32Array; scales: Float32Array; scheme: Scheme }> {
  using scope = backend.scope();
  const { format, weights } = (await recognize(output))!;
  const quantized = await format.unpack(weights.get(name)!, output.read.bind(output), { scope });
  const [values, scales] = await backend.read(
    schemeKind(quantized.scheme).dequantize(quantized, scope),
    quantized.tensors.scale!,
  );
  return {
    values: new Float32Array(values!.buffer),
    scales: new Float32Array(scales!.buffer),
    scheme: quantized.scheme,
  };
}

/**
 * By what the rows of a stored weight were multiplied after its codes were chosen, told by their
 * scales.
 */
async function rowFactors(
  weight: Float32Array,
  name: string,
  made: Opened,
  backend: Backend,
): Promise<Float32Array> {
  const { scales, scheme } = await stored(name, made, backend);
  using scope = backend.scope();
  const tensor = scope.alloc("f32", [scales.length, weight.length / scales.length]);
  backend.write(tensor, new Uint8Array(weight.slice().buffer));
  const { tensors } = await schemeKind(scheme).quantize(scheme, tensor, {
    scope,
    search: "minmax",
  });
  const [bytes] = await backend.read(tensors.scale!);
  const before = new Float32Array(bytes!.buffer);
  return scales.map((scale, row) => scale / before[row]!);
}

/** Stored values must be the nearest levels of a weight. */
async function checkRounded(
  weight: Float32Array,
  name: string,
  made: Opened,
  backend: Backend,
): Promise<void> {
  const { values, scales } = await stored(name, made, backend);
  const width = weight.length / scales.length;
  values.forEach((value, k) => {
    const step = scales[Math.floor(k / width)]!;
    // The largest positive weight is clipped by half a step, and a scale in bf16 may be too small
    // by 2^-8.
    const most = 0.5001 * step + 128 * step * 2 ** -8;
    assert.ok(Math.abs(value - weight[k]!) <= most, `${name}[${k}]: ${value}, ${weight[k]}`);
  });
}

Deno.test("smoothing gains where channels are large, with rtn and with gptq, and the search is about as good as a good strength", async () => {
  await using model = await loudLlama();
  await using backend = await openWasm({ threads: 1 });
  const made = async (method: string, options: Record<string, unknown> = {}) => {
    const all = { scheme: "W8A8", method, propagate: "false", ...options };
    await using run = await quantizeLoud(model.path, all, backend);
    const facts = run.report.tensors.map(({ name, calibration }) => ({ name, ...calibration }));
    return { loss: run.report.scores.divergence!.mean!, facts };
  };
  const plain = await made("rtn");
  const searched = await made("smoothquant");
  const fixed = await made("smoothquant", { alpha: 0.5 });
  const both = await made("smoothquant+gptq");
  assert.ok(searched.loss < 0.7 * plain.loss, `${searched.loss} and ${plain.loss}`);
  assert.ok(searched.loss < 1.5 * fixed.loss, `${searched.loss} and ${fixed.loss}`);
  assert.ok(both.loss < 0.7 * plain.loss, `${both.loss} and ${plain.loss}`);
  for (const { name, method, strength } of searched.facts) {
    assert.equal(method, "smoothquant+rtn");
    if (/[qkv]_proj|gate|up/.test(name)) assert.ok(strength !== undefined, name);
  }
  assert.ok(fixed.facts.every(({ strength }) => strength === undefined || strength === 0.5));
});

Deno.test("verify() finds a smoothed model whole, also where scales of channels are orders of magnitude apart", async () => {
  await using backend = await openWasm({ threads: 1 });
  // Channels that are hardly used: their weights have scales so small that what GPTQ lets them make
  // up for, hardly damped, looks large without.
  await using model = await loudLlama("f32", { quiet: 1e-4 });
  await using source = await openCheckpoint(model.path);
  const options = {
    ...{ scheme: "W8A8", method: "smoothquant+gptq", alpha: 0.9, propagate: "false" },
    damping: 1e-8,
  };
  await using made = await quantizeLoud(model.path, options, backend);
  const { quantized, smoothed } = await verify(made.out, { backend, source });
  assert.equal(smoothed.length, 4);
  const worst = Math.min(...quantized.map(({ metrics }) => metrics.sqnr_db!));
  assert.ok(worst < 0, `without its scales no weight looks lost: ${worst} dB`);
});
