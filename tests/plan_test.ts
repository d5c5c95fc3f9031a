/** Planning: every tensor's fate, sizes to the byte, and refusals that are sentences. */
import assert from "node:assert/strict";
import { UnsupportedError } from "../src/errors.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import type { Plan } from "../src/plan/planned.ts";
import { prepareCalibration, prepareWindows } from "../src/windows.ts";
import { plan } from "../src/plan.ts";
import { quantizeTasks } from "../src/plan/tasks.ts";
import { DEVICE, fates, planOf, tasksOf } from "./plan_given.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import { parseRecipe } from "../src/recipe_file.ts";
import { parseOption } from "../src/option.ts";
import { sizeToGive } from "../src/size.ts";
import { byteLength, type TensorInfo } from "../src/tensor.ts";
import { convolutionalTensors, makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

Deno.test("plan() quantizes the linears of a Llama's blocks and copies the rest", async () => {
  const made = await planOf(
    recipeFromOptions({ scheme: "W4A16", "group-size": 32, method: "rtn" }),
  );
  const kinds = fates(made);
  assert.equal(kinds["model.layers.1.mlp.down_proj.weight"], "int");
  for (
    const name of [
      "model.embed_tokens.weight",
      "lm_head.weight",
      "model.norm.weight",
      "model.layers.0.input_layernorm.weight",
    ]
  ) {
    assert.equal(kinds[name], "copy", name);
  }
  assert.equal(Object.values(kinds).filter((kind) => kind === "int").length, 14);
  // 4 bits, a bf16 scale per 32, and two int64 of shape per weight.
  const weights = 2 * (64 * 64 * 2 + 32 * 64 * 2 + 128 * 64 * 3);
  assert.equal(made.quantizedWeights, weights);
  assert.equal(made.bitsPerWeight, (weights * 4 + weights / 32 * 16 + 14 * 128) / weights);
});

Deno.test("plan() lays out every output tensor without gap or overlap, and the sizes add up", async () => {
  const made = await planOf({ ...recipeFromOptions({ scheme: "NF4" }), maxShardSize: 20_000 });
  assert(made.files.length > 2);
  const outputs = tasksOf(made).flatMap(({ outputs }) => outputs);
  const placed = made.files.flatMap(({ tensors }) => tensors);
  assert.deepEqual(placed.map(({ name }) => name).sort(), outputs.map(({ name }) => name).sort());
  for (const file of made.files) {
    let at = file.head.length;
    for (const tensor of file.tensors) {
      assert.equal(tensor.begin, at);
      assert.equal(tensor.end - tensor.begin, byteLength(tensor));
      at = tensor.end;
    }
    assert.equal(file.size, at);
  }
  assert.match(made.files[0]!.path, /^model-00001-of-0000\d\.safetensors$/);
  const index = made.sidecars.find(({ path }) => path === "model.safetensors.index.json");
  const map = JSON.parse(new TextDecoder().decode(index!.bytes)).weight_map;
  assert.deepEqual(Object.keys(map).sort(), outputs.map(({ name }) => name).sort());
  const files = made.files.reduce((n, { size }) => n + size, 0);
  assert.equal(made.totalBytes, files + made.sidecars.reduce((n, { size }) => n + size, 0));
  // The parts of one weight are in one file.
  for (const { outputs } of tasksOf(made)) {
    assert.equal(new Set(outputs.map(({ name }) => map[name])).size, outputs.length === 0 ? 0 : 1);
  }
});

Deno.test("plan() gives rules in order: the first that matches decides, ignore before all", async () => {
  const made = await planOf(parseRecipe(
    `
scheme: W4A16
method: rtn
group_size: 64
ignore: ["model.layers.0.*"]
rules:
  - {match: "*.down_proj", scheme: W8A16}
  - {match: "*_proj", scheme: W4A16, group_size: 32, method: rtn}
`,
    "r.yaml",
  ));
  const kinds = fates(made);
  assert.equal(kinds["model.layers.0.mlp.down_proj.weight"], "copy");
  const scheme = (name: string) => {
    const task = tasksOf(made).find(({ source }) => source.name === name)!;
    return task.kind === "quantize" && task.scheme.kind === "int" ? task.scheme : undefined;
  };
  assert.equal(scheme("model.layers.1.mlp.down_proj.weight")?.bits, 8);
  assert.deepEqual(scheme("model.layers.1.self_attn.q_proj.weight")?.strategy, {
    kind: "group",
    size: 32,
  });
});

Deno.test("plan() drops rotary frequencies of old checkpoints, and says why", async () => {
  const name = "model.layers.0.self_attn.rotary_emb.inv_freq";
  const made = await planOf(recipeFromOptions({ scheme: "W8A16" }), {
    tensors: [...tinyTensors(), { name, dtype: "f32", shape: [8] }],
  });
  const task = tasksOf(made).find(({ source }) => source.name === name)!;
  assert.equal(task.kind, "drop");
  assert.match(task.kind === "drop" ? task.reason : "", /computes from config\.json/);
  assert.deepEqual(task.outputs, []);
});

Deno.test("a classifier is calibrated, has no head to be evaluated, and its text can be prepared", async () => {
  const tensors = [
    ...tinyTensors("bf16", { tied: true }),
    { name: "score.weight", dtype: "bf16", shape: [3, 64] } as const,
  ];
  const architectures = ["LlamaForSequenceClassification"];
  for (const tie_word_embeddings of [true, false]) {
    const config = { ...TINY_CONFIG, architectures, tie_word_embeddings };
    const made = await planOf(recipeFromOptions({ scheme: "W4A16", "group-size": 32 }), {
      tensors,
      config,
      calibrate: true,
    });
    assert.ok(made.calibration);
    assert.equal(made.model?.head, undefined);
    const folder = await makeCheckpoint(tensors, { config });
    const tokenizer = new URL("../sample/model/tokenizer.json", import.meta.url);
    await Deno.copyFile(tokenizer, `${folder}/tokenizer.json`);
    await Deno.writeTextFile(`${folder}/text.txt`, "A. ".repeat(200));
    await using source = await openCheckpoint(folder);
    const text = { corpus: `${folder}/text.txt`, seqLen: 8, numSamples: 2 };
    // Its vocabulary is too small for the sample's tokenizer, which is told after the head is not asked for.
    await assert.rejects(prepareCalibration(source, text), /tokenizer\.json/);
    await assert.rejects(prepareWindows(source, text), /it has no output head/);
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("plan() calibrates classifiers and base models, and needs no model for what needs no forward pass", async () => {
  const classifier = [
    ...tinyTensors("bf16", { tied: true }),
    { name: "score.weight", dtype: "bf16", shape: [3, 64] } as const,
  ];
  const base = tinyTensors("bf16", { tied: true }).map((tensor) => ({
    ...tensor,
    name: tensor.name.replace(/^model\./, ""),
  }));
  for (const tensors of [classifier, base]) {
    for (const scheme of ["NF4", "W8A16", "F32"]) {
      const made = await planOf(recipeFromOptions({ scheme }), { tensors });
      assert.equal(made.model?.head, undefined);
      assert.deepEqual(made.warnings, []);
      const linears = Object.entries(fates(made)).filter(([name]) => name.includes("_proj"));
      assert.equal(linears.filter(([, fate]) => fate === "copy").length, 0);
    }
    const recipe = recipeFromOptions({ scheme: "W4A16", "group-size": 32 });
    const made = await planOf(recipe, { tensors, calibrate: true });
    assert.ok(made.calibration);
    assert.deepEqual(made.warnings, []);
    // Of what config.json does not describe nothing can be run, and all can be rounded.
    const config = { ...TINY_CONFIG, num_hidden_layers: 3 };
    const rounded = await planOf(recipe, { tensors, config });
    assert.equal(rounded.calibration, undefined);
    assert.match(
      rounded.warnings[0]!.message,
      /rounded to nearest.*config\.json describes a llama of 3 layers, but .* no tensor "/,
    );
    await assert.rejects(
      planOf(recipeFromOptions({ scheme: "W4A16", "group-size": 32, method: "gptq" }), {
        tensors,
        config,
      }),
      /gptq must see its inputs, and Sluice cannot run this model \(config\.json describes/,
    );
  }
});

Deno.test("plan() takes an unknown architecture: 4-D and 2-D weights are quantized, the classifier and norms are not", async () => {
  const made = await planOf(recipeFromOptions({ scheme: "W8A16" }), {
    tensors: convolutionalTensors(),
    config: null,
  });
  assert.equal(made.model, undefined);
  assert.deepEqual(fates(made), {
    "bn1.bias": "copy",
    "bn1.num_batches_tracked": "copy",
    "bn1.running_mean": "copy",
    "bn1.weight": "copy",
    "conv1.weight": "int",
    "fc.bias": "copy",
    "fc.weight": "int",
    "layer1.0.conv1.weight": "int",
    "layer1.0.downsample.0.weight": "int",
  });
});

Deno.test("plan() casts every float tensor, and copies what has the dtype already", async () => {
  const made = await planOf(recipeFromOptions({ scheme: "BF16" }), { tensors: tinyTensors("f32") });
  assert(Object.values(fates(made)).every((kind) => kind === "cast"));
  const config = made.sidecars.find(({ path }) => path === "config.json")!;
  assert.equal(JSON.parse(new TextDecoder().decode(config.bytes)).torch_dtype, "bfloat16");
});

Deno.test("plan() cuts weights into slices that the device binds, at rows that scales and packing allow", async () => {
  const device = { ...DEVICE, maxTensorBytes: 4096, sliceBytes: 1024 };
  const made = await planOf(
    recipeFromOptions({ scheme: "W4A16_ASYM", "group-size": 32, method: "rtn" }),
    {
      device,
    },
  );
  for (const { source, sliceRows, rowStep } of quantizeTasks(made.units)) {
    const columns = source.shape[1]!;
    // Zero points of 4 bits are packed by eight rows into a word.
    assert.equal(rowStep, 8);
    assert.equal(sliceRows % rowStep, 0);
    assert(sliceRows * columns * 4 <= 4096, source.name);
  }
});

Deno.test("plan() keeps a memory budget by sending hidden states to disk, then by smaller slices", async () => {
  const folder = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
  await using source = await openCheckpoint(folder);
  const recipe = recipeFromOptions({ scheme: "W4A16", "group-size": 32, method: "rtn" });
  const evaluation = { seqLen: 64, windows: 400, stateBudget: 1e9 };
  const free = plan(recipe, source, { device: DEVICE, evaluation });
  assert.equal(free.spilledBytes, 0);
  const ram = free.memory.peak - 5e6;
  const kept = plan(recipe, source, { device: DEVICE, evaluation, budgets: { ram } });
  assert(kept.memory.peak <= ram);
  assert(kept.evaluation!.stateBudget < 1e9);
  assert(kept.spilledBytes > 0 && kept.spilledBytes < 2 * 400 * 64 * 64 * 4);
  const disk = kept.spilledBytes - 1;
  assert.throws(
    () => plan(recipe, source, { device: DEVICE, evaluation, budgets: { ram, disk } }),
    new RegExp(`Cannot keep to \`budgets\\.disk\`: .*disk\` ${sizeToGive(kept.spilledBytes)}`),
  );
  const tensors: TensorInfo[] = [{ name: "a.weight", dtype: "bf16", shape: [512, 1024] }];
  const whole = await planOf(recipe, { tensors, config: null });
  const cut = await planOf(recipe, {
    tensors,
    config: null,
    budgets: { ram: whole.memory.peak - 1e6 },
  });
  assert(cut.memory.peak <= whole.memory.peak - 1e6);
  assert(quantizeTasks(cut.units)[0]!.sliceRows < 512);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("plan() refuses a memory budget that nothing keeps, with the number that would do", async () => {
  const folder = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
  await using source = await openCheckpoint(folder);
  const recipe = recipeFromOptions({ scheme: "NF4" });
  const attempt = (ram: number) => plan(recipe, source, { device: DEVICE, budgets: { ram } });
  let least = 0;
  assert.throws(() => attempt(1e6), (error: Error) => {
    const said = /needs at least [\d.]+ MB\. Give `budgets\.ram` (\w+)\./.exec(error.message)?.[1];
    least = Number(parseOption({ name: "max-ram", type: "bytes", help: "" }, said));
    return error.name === "UnsupportedError" && least > 1e6;
  });
  const { peak: needed } = attempt(least).memory;
  assert.ok(needed <= least && needed > least * 0.99);
  assert.throws(
    () => plan(recipe, source, { device: DEVICE, budgets: { vram: 1e9 } }),
    /`budgets\.vram`: the device is wasm/,
  );
  // What lies on a GPU is not the process's, unless the CPU plays it.
  const gpu = { ...DEVICE, name: "webgpu" as const };
  const { memory: { peak, base, device: vram } } = plan(recipe, source, { device: gpu });
  assert.deepEqual(plan(recipe, source, { device: gpu, budgets: { vram } }).memory.device, vram);
  const played = plan(recipe, source, { device: { ...gpu, software: true } });
  assert.ok(played.memory.device < vram);
  assert.ok(played.memory.peak - played.memory.base > peak - base);
  assert.throws(
    () => plan(recipe, source, { device: gpu, budgets: { vram: 1000 } }),
    /Cannot keep to `budgets\.vram`: this run needs at least \S+ GB\. Give `budgets\.vram` \S+GB\./,
  );
  await Deno.remove(folder, { recursive: true });
});

const refusals: readonly (readonly [
  what: string,
  act: () => Promise<unknown>,
  error: string,
  sentence: RegExp,
])[] = [
  [
    "a group size that does not divide a row",
    () => planOf(recipeFromOptions({ scheme: "W4A16", "group-size": 48, method: "rtn" })),
    "UnsupportedError",
    /_proj\.weight.*48 does not divide .*64, 32/s,
  ],
  [
    "fused partners of different schemes",
    () =>
      planOf(
        parseRecipe(
          "scheme: W4A16\nmethod: rtn\ngroup_size: 32\nrules: [{match: '*.k_proj', scheme: W8A16}]",
          "r",
        ),
      ),
    "UnsupportedError",
    /fuse .*q_proj.*k_proj.*v_proj.* share one scheme/,
  ],
  [
    "a rule that matches nothing",
    () => planOf(parseRecipe("scheme: W8A16\nrules: [{match: 'no.such', scheme: W8A16}]", "r")),
    "UnsupportedError",
    /"no\.such"/,
  ],
  [
    "a recipe that leaves all as it is",
    () => planOf(recipeFromOptions({ scheme: "W8A16" }, ["*"])),
    "UnsupportedError",
    /leaves every one/,
  ],
  [
    "a scheme that leaves all as it is",
    () => planOf(recipeFromOptions({ scheme: "none" })),
    "UnsupportedError",
    /leaves every one .*\(left alone by the scheme none\)/,
  ],
  [
    "the embedding",
    () => planOf(parseRecipe("rules: [{match: '*embed_tokens', scheme: W8A16}]", "r")),
    "UnsupportedError",
    /no format stores a quantized embedding/,
  ],
  [
    "a tied head",
    () =>
      planOf(parseRecipe("rules: [{match: '*embed_tokens', scheme: W8A16}]", "r"), {
        tensors: tinyTensors("bf16", { tied: true }),
        config: { ...TINY_CONFIG, tie_word_embeddings: true },
      }),
    "UnsupportedError",
    /tied/,
  ],
  [
    "a format that does not hold the scheme",
    () => planOf(recipeFromOptions({ scheme: "NF4", format: "compressed-tensors" })),
    "UnsupportedError",
    /compressed-tensors/,
  ],
  [
    "schemes that no one format holds",
    () => planOf(parseRecipe("scheme: NF4\nrules: [{match: '*.down_proj', scheme: W8A16}]", "r")),
    "UnsupportedError",
    /any one format/,
  ],
  [
    "an option that the scheme does not take",
    () => planOf(recipeFromOptions({ scheme: "NF4", "group-size": 64 })),
    "RequestError",
    /`group-size` with NF4/,
  ],
  [
    "an option that the method does not take",
    () => planOf(recipeFromOptions({ scheme: "W8A16", method: "rtn", damping: 0.1 })),
    "RequestError",
    /Cannot use `damping` with method rtn: it is an option of gptq\./,
  ],
  [
    "an option that no method takes which auto chooses",
    () => planOf(recipeFromOptions({ scheme: "W8A16", "awq-rows": 8 })),
    "RequestError",
    /Cannot use `awq-rows` with method rtn \(which auto takes here\): it is an option of awq\./,
  ],
  [
    "a method's option in a rule of a recipe that goes by another method",
    () =>
      planOf(parseRecipe(
        "scheme: W8A16\nrules: [{match: '*.down_proj', scheme: W8A16, method: hqq, sweeps: 2}]",
        "r",
      )),
    "RequestError",
    /Cannot use `sweeps` with method hqq in the rule for "\*\.down_proj": it is an option of gptq/,
  ],
  [
    "a checkpoint that is quantized already",
    () =>
      planOf(recipeFromOptions({}), {
        config: { ...TINY_CONFIG, quantization_config: { quant_method: "gptq" } },
      }),
    "UnsupportedError",
    /quantized already \(gptq\)/,
  ],
  [
    "packed tensors without a config",
    () =>
      planOf(recipeFromOptions({}), {
        tensors: [{ name: "a.qweight", dtype: "i32", shape: [4, 4] }],
        config: null,
      }),
    "UnsupportedError",
    /GPTQ or AWQ/,
  ],
  [
    "an evaluation of an unknown architecture",
    () =>
      planOf(recipeFromOptions({ scheme: "W8A16" }), {
        config: { model_type: "mamba" },
        evaluate: true,
      }),
    "UnsupportedError",
    /model_type is "mamba".*without `evaluation`/,
  ],
  [
    "a config whose shapes are not the tensors'",
    () =>
      planOf(recipeFromOptions({ scheme: "W8A16" }), {
        config: { ...TINY_CONFIG, intermediate_size: 256 },
        evaluate: true,
      }),
    "CheckpointError",
    /gate_proj.*\[128, 64\].*\[256, 64\]/,
  ],
  [
    "a scale for a whole tensor that the device cannot bind",
    () =>
      planOf(recipeFromOptions({ scheme: "W8A16", "group-size": 0 }), {
        device: { ...DEVICE, maxTensorBytes: 4096 },
      }),
    "UnsupportedError",
    /must be quantized together/,
  ],
];
for (const [what, act, error, sentence] of refusals) {
  Deno.test(`plan() refuses ${what} with a sentence`, async () => {
    await assert.rejects(act, (thrown: Error) => {
      assert.equal(thrown.name, error, thrown.message);
      assert.match(thrown.message, sentence);
      return true;
    });
  });
}

Deno.test("plan() makes schemes for the dtype of scales that a format asks for, and its file beside config.json", async () => {
  const options = { scheme: "W4A16", method: "rtn", "group-size": 32 };
  const scales = ({ files }: Plan) =>
    files.flatMap(({ tensors }) => tensors)
      .filter(({ name }) => /scales?$/.test(name)).map(({ dtype }) => dtype);
  const paths = ({ sidecars }: Plan) => sidecars.map(({ path }) => path);
  const usual = await planOf(recipeFromOptions(options));
  assert.equal(usual.format.name, "compressed-tensors");
  assert.deepEqual(new Set(scales(usual)), new Set(["bf16"]));
  assert.deepEqual(paths(usual), ["config.json"]);
  const gptq = await planOf(recipeFromOptions({ ...options, format: "gptq" }));
  assert.deepEqual(new Set(scales(gptq)), new Set(["f16"]));
  assert.deepEqual(paths(gptq), ["config.json", "quantize_config.json"]);
  assert.match(new TextDecoder().decode(gptq.sidecars[0]!.bytes), /"torch_dtype": "bfloat16"/);
  const awq = await planOf(recipeFromOptions({ ...options, format: "awq" }));
  assert.deepEqual(new Set(scales(awq)), new Set(["f16"]));
  assert.deepEqual(paths(awq), ["config.json"]);
});

Deno.test("plan() knows that gptq and awq keep the stored tensors of a whole weight", async () => {
  const device = { ...DEVICE, sliceBytes: 4096 };
  const tensors: TensorInfo[] = [{ name: "a.weight", dtype: "bf16", shape: [512, 256] }];
  const plans = await Promise.all(
    ["compressed-tensors", "gptq", "awq"].map((format) =>
      planOf(recipeFromOptions({ scheme: "W4A16", "group-size": 32, format }), {
        device,
        tensors,
        config: null,
      })
    ),
  );
  const [usual, ...gathering] = plans.map(({ memory }) => memory.slice);
  const codes = 512 * 256 / 2;
  for (const slice of gathering) {
    assert.ok(slice > usual! + codes && slice < usual! + 1.25 * codes, `${slice}, ${usual}`);
  }
});

Deno.test("plan() refuses what gptq and awq cannot hold with a sentence that says what to do", async () => {
  const refusals: [Record<string, unknown>, RegExp][] = [
    [
      { scheme: "W4A16_ASYM", "group-size": 32, format: "gptq" },
      /^Cannot store the result in gptq: gptq cannot hold "model\..*": .*; use awq .*\.$/,
    ],
    [{ scheme: "W4A16", "group-size": 16, format: "gptq" }, /no groups of 16.*use 32, 64/],
    [{ scheme: "W4A16", "group-size": -1, format: "awq" }, /use another group size/],
    [{ scheme: "NF4", format: "awq" }, /awq holds int weights, not nf4/],
  ];
  for (const [options, says] of refusals) {
    await assert.rejects(planOf(recipeFromOptions(options)), (error) => {
      assert.ok(error instanceof UnsupportedError);
      assert.match(error.message, says);
      return true;
    });
  }
  // A mixture that no format holds does not speak of formats that nobody asked for.
  const mixture = parseRecipe(
    "{scheme: NF4, rules: [{match: '*.down_proj', scheme: W4A16, group_size: 32}]}",
    "r.yaml",
  );
  await assert.rejects(planOf(mixture), (error) => {
    assert.ok(error instanceof UnsupportedError && !/gptq|awq/.test(error.message));
    return true;
  });
});
