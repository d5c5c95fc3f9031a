/**
 * Whole runs on small checkpoints: the same bytes whatever the slices, faults that leave nothing
 * behind, one pass that measures.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { Backend } from "../src/backend.ts";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { DeviceError } from "../src/errors.ts";
import { evaluate } from "../src/evaluate.ts";
import { recognize } from "../src/formats/mod.ts";
import { disk } from "../src/io/disk.ts";
import { bytesFrom, floatsFrom } from "../src/number.ts";
import { requestOf } from "../src/plan/planned.ts";
import { plan } from "../src/plan.ts";
import { parseRecipe } from "../src/recipe_file.ts";
import { run } from "../src/run.ts";
import { schemeKind } from "../src/schemes/mod.ts";
import { openFolderSink } from "../src/sinks/folder.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { verify } from "../src/verify.ts";
import type { TensorSource } from "../src/source.ts";
import { bytesOf, folder, quantize, runOn, small, tinyWindows, withOwn } from "./run_given.ts";
import { convolutionalTensors, makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

const WINDOWS = tinyWindows(3, 12);

for (const scheme of ["W4A16_ASYM", "NF4", "W8A8", "FP8_DYNAMIC", "LLM_INT8"]) {
  Deno.test(`run() writes the same bytes for ${scheme} twice, with other slices and with other threads`, async () => {
    await using into = await folder();
    const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
    const options = {
      scheme,
      method: "rtn",
      ...(scheme.startsWith("W4") ? { "group-size": 32 } : {}),
    };
    await using one = await openWasm({ threads: 1 });
    await using two = await openWasm({ threads: 2 });
    const first = await quantize(model, options, { backend: one, into: into.path });
    for (const backend of [one, two, small(one, 1500), small(two, 256)]) {
      const again = await quantize(model, options, { backend, into: into.path });
      assert.deepEqual(await bytesOf(again.out), await bytesOf(first.out));
    }
    await Deno.remove(model, { recursive: true });
  });
}

Deno.test("run() goes on with smaller slices when the device has no memory for one, and says so", async () => {
  await using into = await folder();
  const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
  await using backend = await openWasm({ threads: 1 });
  const whole = await quantize(model, { scheme: "NF4" }, { backend, into: into.path });
  const poor = withOwn(backend, {
    scope: () => {
      const scope = backend.scope();
      return {
        ...scope,
        alloc: (dtype, shape) => {
          if (shape.length === 2 && shape[0]! > 16 && shape[1]! >= 64) {
            throw new DeviceError("Cannot allocate.", {
              kind: "memory",
              backend: "wasm",
              bytes: 1,
            });
          }
          return scope.alloc(dtype, shape);
        },
        [Symbol.dispose]: () => scope[Symbol.dispose](),
      };
    },
  });
  const cut = await quantize(model, { scheme: "NF4" }, { backend: poor, into: into.path });
  assert.deepEqual(await bytesOf(cut.out), await bytesOf(whole.out));
  assert(cut.events.some((event) => event.type === "warning" && event.code === "smaller-slices"));
  await Deno.remove(model, { recursive: true });
});

Deno.test("run() refuses a weight that holds NaN by its name and leaves nothing behind", async () => {
  await using into = await folder();
  const name = "model.layers.1.mlp.up_proj.weight";
  const model = await makeCheckpoint(tinyTensors("f32"), {
    config: TINY_CONFIG,
    change: (tensor, bytes) => {
      if (tensor === name) new Float32Array(bytes.buffer)[77] = NaN;
    },
  });
  await using backend = await openWasm({ threads: 1 });
  for (const scheme of ["W8A16", "NF4", "FP8_DYNAMIC", "LLM_INT8"]) {
    await assert.rejects(
      () => quantize(model, { scheme }, { backend, into: into.path }),
      (error: Error) => error.name === "CheckpointError" && error.message.includes(name),
      scheme,
    );
  }
  assert.deepEqual([...Deno.readDirSync(into.path)], []);
  await Deno.remove(model, { recursive: true });
});

Deno.test("run() refuses a tensor that is copied, cast or calibrated with and holds NaN, by its name", async () => {
  await using into = await folder();
  await using backend = await openWasm({ threads: 1 });
  const calibration = { windows: WINDOWS, stateBudget: 1e6 };
  const int4 = { scheme: "W4A16", "group-size": 32 };
  const tries = [
    ["model.layers.1.input_layernorm.weight", { scheme: "W8A16" }],
    ["model.layers.1.input_layernorm.weight", int4],
    ["lm_head.weight", { scheme: "W8A16" }],
    ["model.layers.0.mlp.up_proj.weight", { scheme: "F16" }],
    ["model.layers.0.mlp.up_proj.weight", { scheme: "F32" }],
    ["model.layers.1.self_attn.k_proj.weight", int4],
  ] as const;
  for (const [name, options] of tries) {
    const model = await makeCheckpoint(tinyTensors(), {
      config: TINY_CONFIG,
      change: (tensor, bytes) => {
        if (tensor === name) bytes.set([0xc1, 0xff], 2 * 37);
      },
    });
    await assert.rejects(
      () => quantize(model, options, { backend, into: into.path, calibration }),
      (error: Error) =>
        error.name === "CheckpointError" && error.message.includes(`"${name}": it holds NaN`),
      name,
    );
    await Deno.remove(model, { recursive: true });
  }
  assert.deepEqual([...Deno.readDirSync(into.path)], []);
});

Deno.test("run() reads float64 as float32: the same bytes as of the rounded checkpoint, and its dtype in config.json", async () => {
  await using into = await folder();
  await using backend = await openWasm({ threads: 1 });
  const config = { ...TINY_CONFIG, torch_dtype: "float32" };
  const rounded = await makeCheckpoint(tinyTensors("f32"), { config });
  await using source = await openCheckpoint(rounded);
  const values = new Map<string, Uint8Array>();
  for (const name of source.tensors.keys()) {
    // What is below the last bit of f32 is lost, and no more.
    const doubles = Float64Array.from(
      new Float32Array((await source.read(name)).buffer),
      (x) => x * (1 + 2 ** -30),
    );
    values.set(name, new Uint8Array(doubles.buffer));
  }
  const doubles = await makeCheckpoint(
    tinyTensors("f32").map((tensor) => ({ ...tensor, dtype: "f64" })),
    {
      config: { ...TINY_CONFIG, torch_dtype: "float64" },
      change: (name, bytes) => bytes.set(values.get(name)!),
    },
  );
  for (const scheme of ["W8A16", "NF4", "BF16"]) {
    const evaluation = { windows: WINDOWS, stateBudget: 1e6 };
    const options = { backend, into: into.path, evaluation };
    const [one, other] = [
      await quantize(rounded, { scheme }, options),
      await quantize(doubles, { scheme }, options),
    ];
    assert.deepEqual(await bytesOf(other.out), await bytesOf(one.out), scheme);
    assert.deepEqual(other.report.scores, one.report.scores);
  }
  await using stored = await openCheckpoint(doubles, { asStored: true });
  assert.equal(stored.tensors.get("model.norm.weight")!.dtype, "f64");
  for (const model of [rounded, doubles]) await Deno.remove(model, { recursive: true });
});

Deno.test("run() stops at a signal and leaves nothing behind", async () => {
  await using into = await folder();
  const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
  await using backend = await openWasm({ threads: 1 });
  const signal = AbortSignal.abort(new DOMException("stop", "AbortError"));
  await assert.rejects(
    () => quantize(model, { scheme: "NF4" }, { backend, into: into.path, signal }),
    { name: "AbortError" },
  );
  assert.deepEqual([...Deno.readDirSync(into.path)], []);
  await Deno.remove(model, { recursive: true });
});

Deno.test("run() has slices read into the memory that a device shares, and takes them from elsewhere too", async () => {
  await using into = await folder();
  const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
  await using backend = await openWasm({ threads: 1 });
  await using checkpoint = await openCheckpoint(model);
  const shared = new Set<string>();
  const options = { backend: small(backend, 256), into: into.path };
  const direct = await runOn({
    ...checkpoint,
    async read(name, rows, place) {
      const bytes = await checkpoint.read(name, rows, place);
      if (place && bytes === place && bytes.buffer instanceof SharedArrayBuffer) shared.add(name);
      return bytes;
    },
  }, options);
  assert.deepEqual(
    [...shared].sort(),
    direct.report.tensors.map(({ name }) => name).sort(),
  );
  const elsewhere: TensorSource = {
    ...checkpoint,
    read: (name, rows) => checkpoint.read(name, rows),
  };
  const alone = withOwn(options.backend, { shared: undefined });
  for (
    const again of [
      await runOn(elsewhere, options),
      await runOn(checkpoint, { ...options, backend: alone }),
    ]
  ) {
    assert.deepEqual(await bytesOf(again.out), await bytesOf(direct.out));
  }
  await Deno.remove(model, { recursive: true });
});

Deno.test("a run that stops waits for the reads that are on their way into the device's memory", async () => {
  await using into = await folder();
  const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
  await using backend = await openWasm({ threads: 1 });
  await using checkpoint = await openCheckpoint(model);
  const late = Promise.withResolvers<void>();
  let reads = 0, ended = false;
  const stopped = runOn({
    ...checkpoint,
    async read(name, rows, place) {
      if (++reads === 2) throw new Error("No more.");
      if (reads === 3) await late.promise;
      return await checkpoint.read(name, rows, place);
    },
  }, { backend, into: into.path }).finally(() => ended = true);
  stopped.catch(() => {});
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok(reads >= 3 && !ended);
  late.resolve();
  await assert.rejects(stopped, /No more/);
  await Deno.remove(model, { recursive: true });
});

Deno.test("run() quantizes a convolutional network without a config", async () => {
  await using into = await folder();
  const model = await makeCheckpoint(convolutionalTensors());
  await using backend = await openWasm({ threads: 1 });
  const made = await quantize(model, { scheme: "W8A16" }, { backend, into: into.path });
  await using out = await openCheckpoint(made.out);
  assert(out.tensors.has("conv1.weight_packed"));
  assert.deepEqual(out.tensors.get("bn1.num_batches_tracked")?.dtype, "i64");
  const sqnr = made.report.tensors.find(({ name }) => name === "conv1.weight")!.metrics.sqnr_db!;
  assert(sqnr > 40, `${sqnr}`);
  await Deno.remove(model, { recursive: true });
});

for (const scheme of ["W4A16", "W8A8", "NF4", "LLM_INT8", "FP8_DYNAMIC", "BF16"]) {
  Deno.test(`run() with an evaluation of ${scheme} gives what evaluate() gives for its output`, async () => {
    await using into = await folder();
    const model = await makeCheckpoint(tinyTensors("f32"), { config: TINY_CONFIG });
    await using backend = await openWasm({ threads: 1 });
    const evaluation = { windows: WINDOWS, stateBudget: 1e6 };
    const options = {
      scheme,
      method: "rtn",
      ...(scheme === "W4A16" ? { "group-size": 32 } : {}),
    };
    const made = await quantize(model, options, { backend, into: into.path, evaluation });
    await using source = await openCheckpoint(made.out);
    await using reference = await openCheckpoint(model);
    const scores = await evaluate(source, { backend, evaluation, reference });
    assert.deepEqual(scores, made.report.scores);
    const divergence = scores.divergence!.mean!;
    assert(divergence > 0 && divergence < 0.1, `${divergence}`);
    await Deno.remove(model, { recursive: true });
  });
}

Deno.test("run() and evaluate() measure a quantized head in slices as the scheme and format allow them", async () => {
  await using into = await folder();
  const model = await makeCheckpoint(tinyTensors("f32"), { config: TINY_CONFIG });
  await using backend = await openWasm({ threads: 1 });
  const recipe = parseRecipe(
    "{scheme: W4A16_ASYM, group_size: 32, method: rtn, rules: [{match: lm_head, scheme: W4A16_ASYM, group_size: 32, method: rtn}]}",
    "r.yaml",
  );
  const evaluation = { windows: WINDOWS, stateBudget: 1e6 };
  const scoresOf = async (device: Backend) => {
    await using source = await openCheckpoint(model);
    const work = plan(recipe, source, {
      device,
      evaluation: requestOf({ ...evaluation, seqLen: WINDOWS[0]!.length }),
    });
    const out = join(into.path, crypto.randomUUID());
    await using sink = await openFolderSink(out);
    const { scores } = await run(work, { source, backend: device, sink, evaluation });
    await using written = await openCheckpoint(out);
    const options = { backend: device, evaluation, reference: source };
    assert.deepEqual(await evaluate(written, options), scores);
    return scores;
  };
  const whole = await scoresOf(backend);
  // 20 rows of the head at most, of which packed zero points allow 16.
  const sliced = await scoresOf(withOwn(backend, { maxTensorBytes: 20 * 64 * 4 }));
  assert.ok(Math.abs(sliced.divergence!.mean! - whole.divergence!.mean!) < 1e-6);
  await Deno.remove(model, { recursive: true });
});

Deno.test("run() measures the same whether hidden states stay in memory or are spilled", async () => {
  await using into = await folder();
  await using spill = await folder();
  const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
  await using backend = await openWasm({ threads: 1 });
  const kept = await quantize(model, { scheme: "NF4" }, {
    backend,
    into: into.path,
    evaluation: { windows: WINDOWS, stateBudget: 1e6 },
  });
  const spilled = await quantize(model, { scheme: "NF4" }, {
    backend,
    into: into.path,
    evaluation: { windows: WINDOWS, stateBudget: 4096, spill: { disk, folder: spill.path } },
  });
  assert.deepEqual(spilled.report.scores, kept.report.scores);
  assert.deepEqual([...Deno.readDirSync(spill.path)], []);
  await Deno.remove(model, { recursive: true });
});

for (const format of ["gptq", "awq"]) {
  Deno.test(`run() in ${format} writes the same bytes by other slices, and measures what evaluate() measures of them`, async () => {
    await using into = await folder();
    const model = await makeCheckpoint(tinyTensors("f32"), { config: TINY_CONFIG });
    await using backend = await openWasm({ threads: 1 });
    const evaluation = { windows: WINDOWS, stateBudget: 1e6 };
    const options = { scheme: "W4A16", method: "rtn", "group-size": 32, format };
    const made = await quantize(model, options, { backend, into: into.path, evaluation });
    const sliced = await quantize(model, options, {
      backend: small(backend, 256),
      into: into.path,
    });
    assert.deepEqual(await bytesOf(sliced.out), await bytesOf(made.out));
    await using source = await openCheckpoint(made.out);
    await using reference = await openCheckpoint(model);
    assert.deepEqual(
      await evaluate(source, { backend, evaluation, reference }),
      made.report.scores,
    );
    await Deno.remove(model, { recursive: true });
  });
}

for (
  const options of [
    { scheme: "W4A16", "group-size": 32 },
    { scheme: "FP8" },
    { scheme: "NF4", "double-quant": false },
  ]
) {
  Deno.test(`run() writes the rounded values of ${options.scheme} as plain weights: those that its own format stores`, async () => {
    await using into = await folder();
    const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
    await using backend = await openWasm({ threads: 1 });
    const evaluation = { windows: WINDOWS, stateBudget: 1e6 };
    const packed = await quantize(model, { ...options, method: "rtn" }, {
      backend,
      into: into.path,
      evaluation,
    });
    const plain = await quantize(model, { ...options, method: "rtn", format: "plain" }, {
      backend: small(backend, 1500),
      into: into.path,
      evaluation,
    });
    const [stored, values] = [await openCheckpoint(packed.out), await openCheckpoint(plain.out)];
    const found = (await recognize(stored))!;
    assert.equal(found.weights.size, 14);
    for (const weight of found.weights.values()) {
      using scope = backend.scope();
      const quantized = await found.format.unpack(weight, stored.read.bind(stored), { scope });
      const [bytes] = await backend.read(schemeKind(weight.scheme).dequantize(quantized, scope));
      const want = bytesFrom("bf16", floatsFrom("f32", bytes!));
      assert.deepEqual(await values.read(weight.name), want, weight.name);
    }
    assert.equal(values.config.quantization_config, undefined);
    // What is measured is what was written.
    const [a, b] = [packed, plain].map(({ report }) => report.scores.divergence!.mean!);
    assert(Math.abs(a! - b!) < 0.05 * a!, `${a} ${b}`);
    const source = await openCheckpoint(model);
    const measured = await evaluate(values, { backend, evaluation, reference: source });
    assert.deepEqual(measured, plain.report.scores);
    const verified = await verify(plain.out, { backend, source });
    assert.equal(verified.quantized.length, 14);
    assert(verified.quantized.every(({ scheme }) => scheme === "rounded values in bf16"));
    for (const opened of [stored, values, source]) await opened[Symbol.asyncDispose]();
    await Deno.remove(model, { recursive: true });
  });
}

Deno.test("run() writes norms in the dtype that config.json announces where the format's loaders want it", async () => {
  await using into = await folder();
  const tensors = tinyTensors().map((info) =>
    info.name.includes("norm") ? { ...info, dtype: "f32" as const } : info
  );
  const model = await makeCheckpoint(tensors, { config: TINY_CONFIG });
  await using backend = await openWasm({ threads: 1 });
  const evaluation = { windows: WINDOWS, stateBudget: 1e6 };
  const { out, report } = await quantize(model, { scheme: "NF4" }, {
    backend,
    into: into.path,
    evaluation,
  });
  await using source = await openCheckpoint(model);
  await using output = await openCheckpoint(out);
  const norm = "model.layers.1.input_layernorm.weight";
  const values = floatsFrom("f32", await source.read(norm));
  assert.equal(output.tensors.get(norm)!.dtype, "bf16");
  assert.deepEqual(await output.read(norm), bytesFrom("bf16", values));
  assert.deepEqual(
    await evaluate(output, { backend, evaluation, reference: source }),
    report.scores,
  );
  assert.equal((await verify(out, { backend, source })).quantized.length, 14 + 5);
  // f16 has less room than f32.
  const wide = await makeCheckpoint(tensors, {
    config: { ...TINY_CONFIG, torch_dtype: "float16" },
    change: (name, bytes) => {
      if (name === norm) new Float32Array(bytes.buffer)[3] = 1e6;
    },
  });
  await assert.rejects(
    quantize(wide, { scheme: "NF4" }, { backend, into: into.path }),
    /Cannot cast "model\.layers\.1\.input_layernorm\.weight" to f16/,
  );
  for (const path of [model, wide]) await Deno.remove(path, { recursive: true });
});
