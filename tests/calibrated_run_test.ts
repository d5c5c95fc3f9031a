/**
 * Whole runs that calibrate: the same bytes whatever the device likes, no product twice, what is
 * measured is what was written.
 */
import assert from "node:assert/strict";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { evaluate } from "../src/evaluate.ts";
import { disk } from "../src/io/disk.ts";
import type { Scalars } from "../src/op.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { verify } from "../src/verify.ts";
import { bytesOf, folder, quantize, small, tinyWindows, withOwn } from "./run_given.ts";
import { livelyNorms, makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

/** More tokens than the widest layer has inputs. */
const CALIBRATION = { windows: tinyWindows(5, 40), stateBudget: 1e7 };
const EVALUATION = { windows: tinyWindows(3, 12), stateBudget: 1e7 };

function tiny(dtype: "bf16" | "f32" = "bf16"): Promise<string> {
  return makeCheckpoint(tinyTensors(dtype), { config: TINY_CONFIG, change: livelyNorms(dtype) });
}

const CHAINS: readonly Record<string, string | number | boolean>[] = [
  { scheme: "W4A16_ASYM", "group-size": 32 },
  { scheme: "W4A16", "group-size": 32, method: "gptq", propagate: false },
  { scheme: "W3A16", "group-size": 32, method: "awq+gptq", "column-order": "group-aware" },
  { scheme: "W4A16", "group-size": 32, method: "awq", "calibrate-on": "float" },
  { scheme: "W4A16", "group-size": 32, format: "gptq" },
  { scheme: "W4A16_ASYM", "group-size": 32, format: "awq" },
  { scheme: "W4A16_ASYM", "group-size": 32, method: "awq+gptq+tune", iterations: 6, lr: 0.05 },
  {
    scheme: "W3A16",
    "group-size": 64,
    method: "tune",
    "batch-size": 2,
    epochs: 2,
    propagate: false,
  },
  { scheme: "W4A16", "group-size": 32, method: "gptq+tune", iterations: 3, "kl-blocks": 2 },
  { scheme: "NF4", method: "gptq" },
  { scheme: "FP8", method: "awq+gptq" },
  { scheme: "W8A8", method: "smoothquant+gptq", activations: "static" },
  { scheme: "W8A8", method: "smoothquant" },
  { scheme: "FP8_DYNAMIC", method: "rtn", activations: "static", observer: "percentile" },
];

for (const options of CHAINS) {
  const title = Object.entries(options).map(([key, value]) => `${key} ${value}`).join(", ");

  Deno.test(`run() calibrates to the same bytes twice, with other slices and other threads: ${title}`, async () => {
    await using into = await folder();
    const model = await tiny();
    await using one = await openWasm({ threads: 1 });
    await using two = await openWasm({ threads: 2 });
    const given = { into: into.path, calibration: CALIBRATION };
    const first = await quantize(model, options, { ...given, backend: one });
    const expected = await bytesOf(first.out);
    for (const backend of [two, small(one, 1500), small(two, 256)]) {
      const again = await quantize(model, options, { ...given, backend });
      assert.deepEqual(await bytesOf(again.out), expected);
    }
    await Deno.remove(model, { recursive: true });
  });

  Deno.test(`run() measures what it wrote, and verify() finds it whole: ${title}`, async () => {
    await using into = await folder();
    const model = await tiny();
    await using backend = await openWasm({ threads: 2 });
    const given = { backend, into: into.path, evaluation: EVALUATION, calibration: CALIBRATION };
    const made = await quantize(model, options, given);
    await using source = await openCheckpoint(made.out);
    await using reference = await openCheckpoint(model);
    const scores = await evaluate(source, { backend, evaluation: EVALUATION, reference });
    assert.deepEqual(scores, made.report.scores);
    const read = await verify(made.out, { backend, source: reference });
    for (const { name, metrics } of made.report.tensors) {
      const again = read.quantized.find((tensor) => tensor.name === name);
      const [ours, theirs] = [metrics.sqnr_db, again?.metrics.sqnr_db];
      // Scales that a linear's rows took over are found again by least squares.
      assert.ok(
        ours !== undefined && theirs !== undefined && Math.abs(ours - theirs) < 0.25,
        `${name}: ${ours} dB, ${theirs} dB`,
      );
    }
    const scaled = /^(awq|smoothquant)/.test(String(options.method ?? "awq"));
    assert.equal(read.smoothed.length > 0, scaled);
    await Deno.remove(model, { recursive: true });
  });
}

Deno.test("run() computes each product of a window with a weight once, and each Gram matrix once per step", async () => {
  await using into = await folder();
  const model = await tiny();
  await using wasm = await openWasm({ threads: 2 });
  const tokens = CALIBRATION.windows[0]!.length;
  const counts = { products: 0, grams: 0 };
  const backend = withOwn(wasm, {
    // Five windows walk as two, two and one.
    productRows: 2 * tokens,
    run(op, tensors, scalars) {
      const { half, k = 0 }: Scalars = scalars ?? {};
      const [rows = 0] = tensors.x?.shape ?? [];
      if (op.name.startsWith("matmul") && rows % tokens === 0) counts.products += rows / tokens;
      // A Gram matrix sums over tokens, and is symmetric.
      if (op.name === "gemm" && half !== 0 && k % tokens === 0) counts.grams += k / tokens;
      wasm.run(op, tensors, scalars);
    },
  });
  const options = { scheme: "W4A16", "group-size": 32, method: "gptq" };
  await quantize(model, options, { backend, into: into.path, calibration: CALIBRATION });
  const { length: windows } = CALIBRATION.windows;
  // 7 linears in 2 blocks, in the original and in the quantized stream; nobody needs what the last
  // quantized linear gives.
  assert.equal(counts.products, windows * (2 * 7 * 2 - 1));
  assert.equal(counts.grams, windows * 4 * 2);
  await Deno.remove(model, { recursive: true });
});

Deno.test("windows in stacks give the bits that they give alone, and a calibration on them the same quality", async () => {
  await using into = await folder();
  const model = await tiny();
  await using wasm = await openWasm({ threads: 2 });
  await using reference = await openCheckpoint(model);
  const scores = [];
  const ranges = [];
  const divergences = [];
  for (const productRows of [1, 24, 1000]) {
    const backend = withOwn(wasm, { productRows });
    scores.push(await evaluate(reference, { backend, evaluation: EVALUATION }));
    const given = { backend, into: into.path, calibration: CALIBRATION, evaluation: EVALUATION };
    const fixed = { scheme: "FP8_DYNAMIC", method: "rtn", activations: "static" };
    const found = [];
    for (const observer of ["min-max", "moving-average", "percentile"]) {
      const { report } = await quantize(model, { ...fixed, observer }, given);
      found.push(report.tensors.map(({ calibration }) => calibration?.inputScale));
    }
    ranges.push(found);
    const { report } = await quantize(model, { scheme: "W4A16", "group-size": 32 }, given);
    divergences.push(report.scores.divergence!.mean!);
  }
  assert.deepEqual(scores, [scores[0], scores[0], scores[0]]);
  assert.deepEqual(ranges, [ranges[0], ranges[0], ranges[0]]);
  const [alone = 0, ...others] = divergences;
  for (const other of others) assert.ok(Math.abs(other / alone - 1) < 0.05, `${divergences}`);
  await Deno.remove(model, { recursive: true });
});

Deno.test("run() calibrates with hidden states on disk, of which nothing stays", async () => {
  await using into = await folder();
  await using spill = await folder();
  const model = await tiny("f32");
  await using backend = await openWasm({ threads: 2 });
  const options = { scheme: "W4A16", "group-size": 32 };
  // Enough of them for the divergence to be no matter of chance.
  const windows = tinyWindows(12, 40);
  const scores = [];
  for (
    const calibration of [
      { ...CALIBRATION, windows },
      { windows, stateBudget: 0, spill: { disk, folder: spill.path } },
    ]
  ) {
    const made = await quantize(model, options, {
      backend,
      into: into.path,
      calibration,
      evaluation: EVALUATION,
    });
    scores.push(made.report.scores.divergence!.mean!);
    assert.deepEqual([...Deno.readDirSync(spill.path)], []);
  }
  // States are rounded to bf16 on disk: other codes, of the same quality.
  const [kept, spilled] = scores as [number, number];
  assert.ok(spilled < 1.2 * kept, `${kept} nats per token, ${spilled} with states on disk`);
  await Deno.remove(model, { recursive: true });
});

Deno.test("blocks calibrated on the original model do not depend on what became of others", async () => {
  await using into = await folder();
  const model = await tiny();
  await using backend = await openWasm({ threads: 2 });
  const second = async (options: Record<string, unknown>, ignore: readonly string[] = []) => {
    const made = await quantize(model, { scheme: "W4A16", "group-size": 32, ...options }, {
      backend,
      into: into.path,
      calibration: CALIBRATION,
      ignore,
    });
    await using source = await openCheckpoint(made.out);
    const name = "model.layers.1.mlp.up_proj.weight_packed";
    return (await source.read(name)).toHex();
  };
  const first = ["*.layers.0.*"];
  const float = { "calibrate-on": "float" };
  assert.ok(await second(float, first) === await second(float));
  assert.ok(await second({}, first) !== await second({}));
  await Deno.remove(model, { recursive: true });
});

Deno.test("run() tells of few tokens, and says of each weight what it was calibrated with", async () => {
  await using into = await folder();
  const model = await tiny();
  await using backend = await openWasm({ threads: 2 });
  const options = { scheme: "W4A16", "group-size": 32, method: "gptq" };
  const calibration = { windows: tinyWindows(2, 20), stateBudget: 1e7 };
  const few = await quantize(model, options, { backend, into: into.path, calibration });
  const warnings = few.events.flatMap((event) => event.type === "warning" ? [event] : []);
  assert.deepEqual(warnings.map(({ code }) => code), ["few-tokens"]);
  assert.match(warnings[0]!.message, /40 tokens, fewer than the 128 inputs/);
  const enough = await quantize(model, options, {
    backend,
    into: into.path,
    calibration: CALIBRATION,
  });
  assert.deepEqual(enough.events.filter(({ type }) => type === "warning"), []);
  for (const { name, calibration } of enough.report.tensors) {
    assert.equal(calibration?.method, "gptq", name);
    assert.equal(calibration?.tokens, 200);
    assert.ok(calibration?.damping! > 0 && calibration?.loss! > 0);
  }
  await Deno.remove(model, { recursive: true });
});

Deno.test("run() blames no weight for an input that is not finite", async () => {
  await using into = await folder();
  const model = await makeCheckpoint(tinyTensors("f32"), {
    config: TINY_CONFIG,
    change(name, bytes) {
      if (name === "model.layers.1.input_layernorm.weight") {
        // Finite itself, but not what it makes of a hidden state beyond 1.
        new Float32Array(bytes.buffer)[9] = 3.4e38;
      }
    },
  });
  await using backend = await openWasm({ threads: 1 });
  for (const method of ["gptq", "awq", "awq+gptq"]) {
    await assert.rejects(
      () =>
        quantize(model, { scheme: "W4A16", "group-size": 32, method }, {
          backend,
          into: into.path,
          calibration: CALIBRATION,
        }),
      /Cannot calibrate "model\.layers\.1\.self_attn\.q_proj\.weight": channel 9 of its input is NaN or infinite/,
    );
  }
  await Deno.remove(model, { recursive: true });
});

Deno.test("evaluate() refuses to measure a model whose logits are not finite", async () => {
  await using broken = await openCheckpoint(
    await makeCheckpoint(tinyTensors("f32"), {
      config: TINY_CONFIG,
      change(name, bytes) {
        // Finite itself, but not what it makes of a hidden state beyond 1.
        if (name === "model.norm.weight") new Float32Array(bytes.buffer)[3] = 3.4e38;
      },
    }),
  );
  await using whole = await openCheckpoint(await tiny());
  await using backend = await openWasm({ threads: 1 });
  const refused = {
    name: "CheckpointError",
    message: /its logits are NaN or infinite on the text/,
  };
  const given = { backend, evaluation: EVALUATION };
  await assert.rejects(evaluate(broken, given), refused);
  await assert.rejects(evaluate(whole, { ...given, reference: broken }), refused);
  await evaluate(whole, given);
});
