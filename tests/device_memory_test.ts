/**
 * What a plan says of the device's memory is what a run takes of it, and what the device cannot
 * hold is refused before anything is read.
 */
import assert from "node:assert/strict";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { UnsupportedError } from "../src/errors.ts";
import type { DeviceLimits } from "../src/backend.ts";
import { evaluate } from "../src/evaluate.ts";
import type { SpillStore } from "../src/forward/spill_file.ts";
import { disk } from "../src/io/disk.ts";
import { SMALL_BYTES } from "../src/limits.ts";
import { outlierThreshold } from "../src/calibration/outliers.ts";
import { type Plan, requestOf, type WindowsRequest } from "../src/plan/planned.ts";
import { plan } from "../src/plan.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import { run } from "../src/run.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import type { TensorSource } from "../src/source.ts";
import { byteLength, type TensorInfo } from "../src/tensor.ts";
import { counted } from "./counted.ts";
import { idleDevice } from "./idle_device.ts";
import { memorySink, memorySource, nowhereSink } from "./memory.ts";
import { folder } from "./run_given.ts";
import { livelyNorms, makeCheckpoint, TINY_CONFIG } from "./tiny.ts";

interface Sizes {
  readonly hidden: number;
  readonly intermediate: number;
  readonly vocab: number;
}

/** The tensors of a Llama of two blocks. */
function llamaTensors({ hidden, intermediate, vocab }: Sizes): TensorInfo[] {
  const tensor = (name: string, ...shape: number[]): TensorInfo => ({ name, dtype: "bf16", shape });
  return [
    tensor("model.embed_tokens.weight", vocab, hidden),
    ...[0, 1].flatMap((i) => {
      const block = `model.layers.${i}`;
      return [
        tensor(`${block}.input_layernorm.weight`, hidden),
        tensor(`${block}.self_attn.q_proj.weight`, hidden, hidden),
        tensor(`${block}.self_attn.k_proj.weight`, hidden / 4, hidden),
        tensor(`${block}.self_attn.v_proj.weight`, hidden / 4, hidden),
        tensor(`${block}.self_attn.o_proj.weight`, hidden, hidden),
        tensor(`${block}.post_attention_layernorm.weight`, hidden),
        tensor(`${block}.mlp.gate_proj.weight`, intermediate, hidden),
        tensor(`${block}.mlp.up_proj.weight`, intermediate, hidden),
        tensor(`${block}.mlp.down_proj.weight`, hidden, intermediate),
      ];
    }),
    tensor("model.norm.weight", hidden),
    tensor("lm_head.weight", vocab, hidden),
  ];
}

function configOf({ hidden, intermediate, vocab }: Sizes): Record<string, unknown> {
  return {
    ...TINY_CONFIG,
    vocab_size: vocab,
    hidden_size: hidden,
    intermediate_size: intermediate,
    num_attention_heads: 4,
    num_key_value_heads: 1,
    max_position_embeddings: 2048,
  };
}

/** A checkpoint whose headers alone are there. */
function headersOnly(sizes: Sizes): TensorSource {
  const tensors = llamaTensors(sizes);
  return {
    ...memorySource([], { config: configOf(sizes) }),
    tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])),
    fileOf: new Map(tensors.map(({ name }) => [name, "model.safetensors"])),
  };
}

/** As the CPU describes itself. */
const CPU: DeviceLimits = {
  name: "wasm",
  maxTensorBytes: 2 ** 30,
  memoryBytes: 4.02e9,
  sliceBytes: 2 ** 22,
  productRows: 2048,
  busyRows: 64,
  productElements: 2 ** 22,
  software: false,
  supports: () => true,
  matrixPlaces: { outsideBytes: 3 * 2 ** 28 },
};

/**
 * What llama models of 7 to 405 billion parameters have, and whether the CPU can hold what the
 * default method needs of them.
 */
const WIDTHS = [
  { hidden: 4096, intermediate: 11008, fits: true, longest: 2048 },
  { hidden: 4096, intermediate: 14336, fits: true, longest: 2048 },
  { hidden: 8192, intermediate: 28672, fits: true, longest: 1024 },
  { hidden: 16384, intermediate: 53248, fits: false, longest: 0 },
];

for (const { hidden, intermediate, fits } of WIDTHS) {
  const source = headersOnly({ hidden, intermediate, vocab: 32000 });
  const planFor = (options: Record<string, unknown>, device: DeviceLimits) =>
    plan(recipeFromOptions({ scheme: "W4A16", ...options }), source, {
      device,
      calibration: { seqLen: 512, windows: 128, stateBudget: 1e9 },
    });

  Deno.test(`a plan with ${intermediate} inputs keeps to what the CPU can hold, or is refused`, () => {
    if (fits) {
      const { memory } = planFor({}, CPU);
      assert.ok(memory.device <= CPU.memoryBytes!, `${memory.device}`);
    } else {
      assert.throws(() => planFor({}, CPU), (error) => {
        assert.ok(error instanceof UnsupportedError);
        assert.match(
          error.message,
          /^Cannot do this on wasm: at least \d+(\.\d)? GB must be on it at once, while a block is calibrated, and it holds 4\.02 GB\. Use a GPU \(`device` webgpu\), or a `method` that needs no calibration \(rtn or hqq\)\.$/,
        );
        return true;
      });
    }
    // What needs no calibration, and a device that does not say what it holds, take any width.
    assert.ok(planFor({ method: "rtn" }, CPU).memory.device < 1e8);
    assert.ok(planFor({}, { ...CPU, name: "webgpu", memoryBytes: Infinity }).memory.device > 2e9);
  });
}

Deno.test("matrices lie outside that the CPU has no room for, and no others", () => {
  const outsideBytes = WIDTHS.filter(({ fits }) => fits).map((sizes) => {
    const source = headersOnly({ ...sizes, vocab: 32000 });
    const calibration = { seqLen: 512, windows: 128, stateBudget: 1e9 };
    return plan(recipeFromOptions({}), source, { device: CPU, calibration })
      .matrixPlaces!.outsideBytes;
  });
  const usual = CPU.matrixPlaces!.outsideBytes;
  assert.deepEqual(outsideBytes.slice(0, 2), [usual, usual]);
  assert.ok(outsideBytes[2]! <= 8192 ** 2 * 4);
});

Deno.test("matrices go to disk for a budget that nothing else keeps, the fewer the larger it is", () => {
  const source = headersOnly({ hidden: 8192, intermediate: 28672, vocab: 32000 });
  const calibration = { seqLen: 512, windows: 128, stateBudget: 1e9 };
  const planFor = (budgets: { readonly ram?: number; readonly disk?: number }) =>
    plan(recipeFromOptions({}), source, { device: CPU, calibration, budgets });
  const free = planFor({});
  assert.equal(free.memory.disk, 0);
  const least = planFor({ ram: 8e9 });
  assert.ok(least.memory.peak <= 8e9 && least.memory.disk >= 28672 ** 2 * 4 * 3);
  // All of a matrix is read for each slice, so that slices are no smaller than usual.
  const rows = ({ units }: Plan) =>
    units.flatMap(({ tasks }) => tasks)
      .flatMap((task) => task.kind === "quantize" ? [task.sliceRows] : []);
  rows(least).forEach((count, i) => assert.ok(count >= rows(free)[i]!));
  const both = least.memory.disk + least.spilledBytes;
  assert.throws(() => planFor({ ram: 8e9, disk: both - 1 }), {
    message:
      /^Cannot keep to `budgets\.disk`: \d\S* GB of hidden states and \d\S* GB of matrices must go to disk\. /,
  });
  assert.equal(planFor({ ram: 8e9, disk: both }).memory.disk, least.memory.disk);
});

Deno.test("what was given up for matrices that went to disk is taken back where there is room", () => {
  const source = headersOnly({ hidden: 64, intermediate: 14336, vocab: 512 });
  const calibration = { seqLen: 128, windows: 128, stateBudget: 1e9 };
  const { memory, spilledBytes, ...made } = plan(recipeFromOptions({ "group-size": 64 }), source, {
    ...{ device: CPU, calibration, budgets: { ram: 2.5e9 } },
  });
  assert.ok(memory.disk > 14336 ** 2 * 4 && memory.peak < 2.5e9);
  assert.equal(spilledBytes, 0);
  assert.equal(made.calibration!.stateBudget, calibration.stateBudget);
});

Deno.test("an evaluation that the CPU cannot hold is refused with what to leave out", () => {
  const source = headersOnly({ hidden: 16384, intermediate: 53248, vocab: 32000 });
  const evaluation = { seqLen: 2048, windows: 4, stateBudget: 1e9 };
  assert.throws(
    () => plan(recipeFromOptions({ scheme: "NF4" }), source, { device: CPU, evaluation }),
    {
      message:
        /^Cannot do this on wasm: .* while a block is evaluated, .* or a shorter `seqLen`, or leave out `evaluation`\.$/,
    },
  );
});

/** A place on disk where nothing is kept. */
const NOWHERE: SpillStore = {
  folder: "",
  disk: {
    ...disk,
    create: () =>
      Promise.resolve({
        write: () => Promise.resolve(),
        sync: () => Promise.resolve(),
        [Symbol.asyncDispose]: () => Promise.resolve(),
      }),
    open: () =>
      Promise.resolve({
        size: 0,
        read: (from: number, to: number) => Promise.resolve(new Uint8Array(to - from)),
        [Symbol.asyncDispose]: () => Promise.resolve(),
      }),
    remove: () => Promise.resolve(),
  },
};

for (const { hidden, intermediate, longest } of WIDTHS.filter(({ fits }) => fits)) {
  Deno.test(`what is planned with ${intermediate} inputs finds its places in the CPU's memory`, async () => {
    const sizes = { hidden, intermediate, vocab: 4096 };
    const { backend, heap } = idleDevice({
      ...CPU,
      memoryBytes: CPU.memoryBytes!,
      matrixPlaces: CPU.matrixPlaces!,
    });
    const source = headersOnly(sizes);
    const zeros: TensorSource = {
      ...source,
      read(name, rows) {
        const tensor = source.tensors.get(name)!;
        const share = rows ? (rows.to - rows.from) / tensor.shape[0]! : 1;
        return Promise.resolve(new Uint8Array(byteLength(tensor) * share));
      },
    };
    for (const [count, seqLen] of [[4, 128], [8, longest]] as const) {
      const { windows, stateBudget } = walk(count, seqLen);
      const work = plan(recipeFromOptions({ scheme: "W4A16" }), zeros, {
        device: backend,
        calibration: { seqLen, windows: count, stateBudget },
      });
      await run(work, {
        source: zeros,
        backend,
        sink: nowhereSink(),
        metrics: true,
        calibration: { windows, stateBudget: work.calibration!.stateBudget, spill: NOWHERE },
      });
      assert.equal(heap.used, 0);
    }
  });
}

Deno.test("walks without a plan are refused too where the CPU cannot hold a block", async () => {
  const wide = headersOnly({ hidden: 16384, intermediate: 53248, vocab: 32000 });
  const { windows } = walk(4, 16);
  await using wasm = await openWasm({ threads: 1 });
  const input = { windows, stateBudget: 1e9 };
  await assert.rejects(evaluate(wide, { backend: wasm, evaluation: input }), {
    name: "UnsupportedError",
    message:
      /^Cannot evaluate on wasm: .* GB of them for the weights of a block, and it holds 4\.03 GB\. Use a GPU \(`device` webgpu\)\.$/,
  });
  await assert.rejects(
    outlierThreshold(wide, { backend: wasm, calibration: input, quantile: 0.999 }),
    { name: "UnsupportedError", message: /^Cannot look for outliers on wasm: / },
  );
  const long = walk(2048, 1024);
  const many = { windows: long.windows, stateBudget: 1e12 };
  const narrow = headersOnly({ hidden: 4096, intermediate: 11008, vocab: SIZES.vocab });
  await assert.rejects(evaluate(narrow, { backend: wasm, evaluation: many }), {
    message: /, a shorter `seqLen`, or keep fewer hidden states in memory \(`maxStates`\)\.$/,
  });
});

const SIZES = { hidden: 256, intermediate: 768, vocab: 512 };

/** Windows of tokens. */
function walk(count: number, seqLen: number) {
  const windows = Array.from(
    { length: count },
    (_, w) =>
      Uint32Array.from(
        { length: seqLen },
        (_, i) => (i * 7 + w * 31 + (i * i) % 5) % SIZES.vocab,
      ),
  );
  return { windows, seqLen, stateBudget: 1e9 };
}

type Walk = ReturnType<typeof walk>;

/** What a plan has for the device, and the most that lay on it in the run. */
async function memoryOf(
  model: string,
  options: Record<string, unknown>,
  { evaluation, calibration, memoryBytes, spillFolder }: {
    readonly evaluation?: Walk | undefined;
    readonly calibration?: Walk | undefined;
    readonly memoryBytes?: number;
    readonly spillFolder?: string;
  },
): Promise<{ readonly work: Plan; readonly taken: number }> {
  await using source = await openCheckpoint(model);
  await using wasm = await openWasm({ threads: 2 });
  const { backend, peakBytes } = counted(wasm);
  const work = plan(recipeFromOptions(options), source, {
    device: { ...CPU, memoryBytes: memoryBytes ?? wasm.memoryBytes! },
    ...(evaluation ? { evaluation: requestOf(evaluation) } : {}),
    ...(calibration ? { calibration: requestOf(calibration) } : {}),
  });
  const spill = spillFolder === undefined ? {} : { spill: { disk, folder: spillFolder } };
  const kept = (walk: Walk, { stateBudget }: WindowsRequest) => ({
    ...walk,
    stateBudget,
    ...spill,
  });
  await run(work, {
    source,
    backend,
    sink: memorySink(),
    metrics: true,
    ...(evaluation ? { evaluation: kept(evaluation, work.evaluation!) } : {}),
    ...(calibration ? { calibration: kept(calibration, work.calibration!) } : {}),
  });
  return { work, taken: peakBytes() };
}

async function modelOf(sizes: Sizes): Promise<AsyncDisposable & { readonly path: string }> {
  const path = await makeCheckpoint(llamaTensors(sizes), {
    config: configOf(sizes),
    change: livelyNorms("bf16"),
  });
  return { path, [Symbol.asyncDispose]: () => Deno.remove(path, { recursive: true }) };
}

const TEXT = walk(4, 128);

for (
  const { options, evaluation, calibration } of [
    { options: { scheme: "W4A16", "group-size": 64, method: "hqq" } },
    { options: { scheme: "NF4" }, evaluation: walk(2, 128) },
    { options: { scheme: "LLM_INT8" }, evaluation: walk(2, 256) },
    { options: { scheme: "W8A8", method: "rtn" }, evaluation: walk(2, 1024) },
    { options: { scheme: "FP8_DYNAMIC", method: "rtn" }, evaluation: walk(2, 64) },
    { options: { scheme: "W4A16", "group-size": 64 }, calibration: TEXT, evaluation: TEXT },
    { options: { scheme: "W4A16_ASYM", "group-size": 64, format: "awq" }, calibration: TEXT },
    { options: { scheme: "NF4", method: "gptq" }, calibration: TEXT },
    {
      options: { scheme: "W4A16", "group-size": 64, method: "gptq+tune", iterations: 2 },
      calibration: walk(8, 512),
    },
    {
      options: {
        scheme: "W4A16_ASYM",
        "group-size": 64,
        method: "tune",
        iterations: 2,
        "zero-points": true,
        "weight-loss": 1,
        gradients: "bf16",
      },
      calibration: walk(8, 512),
    },
    {
      options: { scheme: "W8A8", method: "tune", iterations: 2, "batch-size": 1, propagate: false },
      calibration: TEXT,
    },
    { options: { scheme: "W8A8", method: "smoothquant+gptq" }, calibration: TEXT },
  ]
) {
  Deno.test(`a run of ${Object.values(options).join(" ")} takes no more of the device than was planned, and not much less`, async () => {
    await using model = await modelOf(SIZES);
    const { work, taken } = await memoryOf(model.path, options, { evaluation, calibration });
    const { device } = work.memory;
    assert.ok(taken <= device, `${taken} bytes were taken of ${device}`);
    // So small a run takes little of what is planned for small things of any run.
    assert.ok(device - SMALL_BYTES <= 1.3 * taken, `${taken} bytes were taken of ${device}`);
  });
}

Deno.test("training for predictions takes no more of the device than was planned", async () => {
  await using model = await modelOf(SIZES);
  const options = { scheme: "W4A16", "group-size": 64, method: "tune", iterations: 2 };
  const { work, taken } = await memoryOf(model.path, { ...options, "kl-blocks": 2 }, {
    calibration: walk(8, 512),
  });
  assert.ok(taken <= work.memory.device, `${taken} bytes were taken of ${work.memory.device}`);
});

Deno.test("a run on a device that holds less keeps to it: hidden states go to disk, slices are smaller", async () => {
  await using model = await modelOf(SIZES);
  await using spill = await folder();
  const options = { scheme: "W4A16", "group-size": 64 };
  const walks = { calibration: walk(24, 128), evaluation: walk(24, 128) };
  const free = await memoryOf(model.path, options, walks);
  const memoryBytes = Math.round(0.65 * free.work.memory.device);
  const kept = await memoryOf(model.path, options, {
    ...walks,
    memoryBytes,
    spillFolder: spill.path,
  });
  assert.ok(kept.work.spilledBytes > 0 && kept.work.memory.device <= memoryBytes);
  assert.ok(kept.taken <= memoryBytes, `${kept.taken} bytes were taken of ${memoryBytes}`);
});
