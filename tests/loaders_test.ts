/** Who opens what: facts about loaders and architectures, and what a plan does so that they do. */
import assert from "node:assert/strict";
import type { Verdict } from "../src/format.ts";
import { ARCHITECTURES } from "../src/formats/architectures.ts";
import type { Plan } from "../src/plan/planned.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import { parseRecipe } from "../src/recipe_file.ts";
import type { TensorInfo } from "../src/tensor.ts";
import { fates, planOf, tasksOf } from "./plan_given.ts";
import { convolutionalTensors, TINY_CONFIG, tinyTensors } from "./tiny.ts";

const tensor = (name: string, ...shape: number[]): TensorInfo => ({ name, dtype: "bf16", shape });

/** The verdict on one loader. */
function of(loader: string, { loaders }: Pick<Plan, "loaders">): Verdict {
  return loaders.find(({ name }) => name === loader)!;
}

/** The tensors of a block with experts, stored one by one as Qwen3's are. */
const EXPERTS: readonly TensorInfo[] = [
  tensor("model.embed_tokens.weight", 96, 64),
  ...["q_proj", "k_proj", "v_proj", "o_proj"].map((name) =>
    tensor(`model.layers.0.self_attn.${name}.weight`, 64, 64)
  ),
  tensor("model.layers.0.mlp.gate.weight", 2, 64),
  ...[0, 1].flatMap((expert) =>
    ["gate_proj", "up_proj", "down_proj"].map((name) =>
      tensor(`model.layers.0.mlp.experts.${expert}.${name}.weight`, 64, 64)
    )
  ),
  tensor("lm_head.weight", 96, 64),
];
const QWEN3_MOE = {
  model_type: "qwen3_moe",
  architectures: ["Qwen3MoeForCausalLM"],
  tie_word_embeddings: false,
  dtype: "bfloat16",
};

/** The tensors of a block of GPT-2, whose matrices are inputs by outputs. */
const GPT2: readonly TensorInfo[] = [
  tensor("transformer.wte.weight", 96, 64),
  tensor("transformer.h.0.attn.c_attn.weight", 64, 192),
  tensor("transformer.h.0.attn.c_attn.bias", 192),
  tensor("transformer.h.0.attn.c_proj.weight", 64, 64),
  tensor("transformer.h.0.attn.c_proj.bias", 64),
];

Deno.test("every architecture of the table has a tiny model, which test:peers opens in every format", () => {
  const maker = Deno.readTextFileSync(new URL("peers/models/tiny_models.py", import.meta.url));
  const made = new Set([...maker.matchAll(/^ {4}"(\w+)": /gm)].map(([, name]) => name));
  assert.deepEqual(Object.keys(ARCHITECTURES).filter((name) => !made.has(name)), []);
});

Deno.test("without a config no loader opens a quantized checkpoint, and of what nobody tried nothing is known", async () => {
  const recipe = recipeFromOptions({ scheme: "W8A16" });
  const none = await planOf(recipe, { config: null });
  assert(none.loaders.every(({ opens, why }) => opens === "no" && /model_type|EXL/.test(why)));
  const nameless = await planOf(recipe, { config: { ...TINY_CONFIG, architectures: undefined } });
  assert.match(of("transformers", nameless).why, /names no architecture/);
  assert.equal(of("transformers", nameless).opens, "unknown");
  const strange = await planOf(recipe, {
    config: { ...TINY_CONFIG, model_type: "novel", architectures: ["NovelForCausalLM"] },
  });
  for (const loader of ["transformers", "vLLM", "SGLang", "TGI"]) {
    assert.equal(of(loader, strange).opens, "unknown", loader);
    assert.match(of(loader, strange).why, /NovelForCausalLM/);
  }
  assert.equal(of("ExLlama", strange).opens, "no");
  assert.match(strange.warnings.map(({ message }) => message).join(), /No loader is known to open/);
  // A member that every object has is no architecture.
  const hostile = await planOf(recipe, {
    config: { ...TINY_CONFIG, architectures: ["constructor"] },
  });
  assert.equal(of("transformers", hostile).opens, "unknown");
});

const GPT2_CONFIG = {
  model_type: "gpt2",
  architectures: ["GPT2LMHeadModel"],
  vocab_size: 96,
  n_positions: 32,
  n_embd: 64,
  n_layer: 1,
  n_head: 4,
};

Deno.test("matrices of inputs by outputs are turned where the model is known, and some loaders open that", async () => {
  const block = "transformer.h.0";
  const tensors = [
    ...GPT2,
    tensor("transformer.wpe.weight", 32, 64),
    tensor(`${block}.mlp.c_fc.weight`, 64, 256),
    tensor(`${block}.mlp.c_fc.bias`, 256),
    tensor(`${block}.mlp.c_proj.weight`, 256, 64),
    tensor(`${block}.mlp.c_proj.bias`, 64),
    ...[`${block}.ln_1`, `${block}.ln_2`, "transformer.ln_f"].flatMap((name) => [
      tensor(`${name}.weight`, 64),
      tensor(`${name}.bias`, 64),
    ]),
  ];
  const verdict = async (options: Record<string, unknown>) => {
    const made = await planOf(recipeFromOptions({ method: "rtn", ...options }), {
      tensors,
      config: GPT2_CONFIG,
    });
    return (loader: string) => of(loader, made);
  };
  for (const scheme of ["NF4", "LLM_INT8"]) {
    const bitsandbytes = await verdict({ scheme });
    assert.equal(bitsandbytes("transformers").opens, "yes", scheme);
    assert.equal(bitsandbytes("vLLM").opens, "unknown", scheme);
  }
  for (const scheme of ["W4A16", "W4A16_ASYM", "W8A8", "FP8_DYNAMIC", "W8A16"]) {
    const group = scheme.startsWith("W4") ? { "group-size": 32 } : {};
    const made = await verdict({ scheme, ...group });
    assert.equal(made("transformers").opens, "no", scheme);
    assert.match(made("transformers").why, /Conv1D/);
    assert.notEqual(made("vLLM").opens, "yes", scheme);
    assert.notEqual(made("llama.cpp").opens, "yes", scheme);
  }
  for (const format of ["gptq", "awq"]) {
    const made = await verdict({ scheme: "W4A16", "group-size": 32, format });
    assert.equal(made("transformers").opens, "no", format);
    assert.equal(made("GPTQModel").opens, "yes", format);
  }
});

Deno.test("matrices of inputs by outputs in a model that nobody knows are opened by no loader", async () => {
  // Its config describes tensors that are not there.
  const config = GPT2_CONFIG;
  for (const scheme of ["W8A16", "FP8_DYNAMIC", "NF4", "LLM_INT8"]) {
    const made = await planOf(recipeFromOptions({ scheme }), { tensors: [...GPT2], config });
    for (const loader of ["transformers", "vLLM"]) {
      assert.equal(of(loader, made).opens, "no", `${loader} ${scheme}`);
      assert.match(of(loader, made).why, /c_attn\.weight" is stored inputs by outputs/);
    }
    assert.notEqual(of("llama.cpp", made).opens, "yes");
  }
  const plain = await planOf(recipeFromOptions({ scheme: "W8A16", format: "plain" }), {
    tensors: [...GPT2],
    config,
  });
  assert.deepEqual(plain.loaders.map(({ opens }) => opens), ["unknown"]);
});

Deno.test("a config that does not fit the tensors is told, and no loader is promised", async () => {
  const misfits: readonly (readonly [Readonly<Record<string, unknown>>, RegExp])[] = [
    [{ num_hidden_layers: 3 }, /describes a llama of 3 layers, but .* no tensor "model\.layers\.2/],
    [{ num_hidden_layers: 1 }, /describes 1 layers, and "model\.layers\.1\./],
    [
      { vocab_size: 97 },
      /"model\.embed_tokens\.weight" has shape \[96, 64\], .* implies \[97, 64\]/,
    ],
    [{ hidden_act: "xyz" }, /hidden_act/],
    [{ rope_parameters: { rope_type: "weird", rope_theta: 1e4 } }, /rope_type/],
  ];
  for (const [change, says] of misfits) {
    for (const format of ["compressed-tensors", "plain"]) {
      const recipe = recipeFromOptions({ scheme: "W8A16", format });
      const made = await planOf(recipe, { config: { ...TINY_CONFIG, ...change } });
      const hopes = made.loaders.filter(({ opens }) => opens !== "no");
      assert.ok(hopes.length > 0);
      for (const { name, opens, why } of hopes) {
        assert.equal(opens, "unknown", `${name} ${format} ${JSON.stringify(change)}`);
        assert.match(why, says);
      }
    }
  }
});

Deno.test("experts that transformers stacks while loading are told apart by how they are stored", async () => {
  const verdict = async (options: Record<string, unknown>, ignore: string[] = []) => {
    const made = await planOf(recipeFromOptions({ method: "rtn", ...options }, ignore), {
      tensors: [...EXPERTS],
      config: QWEN3_MOE,
    });
    return (loader: string) => of(loader, made);
  };
  const packed = await verdict({ scheme: "W4A16", "group-size": 32 });
  assert.equal(packed("transformers").opens, "yes");
  assert.equal(packed("vLLM").opens, "yes");
  assert.equal(packed("SGLang").opens, "unknown");
  for (const scheme of ["NF4", "LLM_INT8", "W8A8"]) {
    const stored = await verdict({ scheme });
    assert.equal(stored("transformers").opens, "no", scheme);
    assert.match(stored("transformers").why, /stacks experts/);
  }
  const gptq = await verdict({ scheme: "W4A16", "group-size": 32, format: "gptq" });
  assert.equal(gptq("transformers").opens, "no");
  assert.match((await verdict({ scheme: "FP8" }))("vLLM").why, /FP8_DYNAMIC/);
  assert.match((await verdict({ scheme: "W8A16_ASYM" }))("vLLM").why, /symmetric/);
  // What is left alone is not in the way.
  const spared = await verdict({ scheme: "NF4" }, ["*.experts.*"]);
  assert.equal(spared("transformers").opens, "yes");
});

Deno.test("a convolutional network is opened by nothing in compressed-tensors, which is said before the run", async () => {
  const config = { model_type: "resnet", architectures: ["ResNetForImageClassification"] };
  const tensors = convolutionalTensors();
  const made = await planOf(recipeFromOptions({ scheme: "W8A16" }), { tensors, config });
  assert(made.loaders.every(({ opens }) => opens === "no"));
  const [warning] = made.warnings;
  assert.equal(warning!.code, "no-loader");
  assert.match(
    warning!.message,
    /^No loader opens this model in compressed-tensors: "conv1\.weight" has 4 dimensions; .*plain/,
  );
  const plain = await planOf(recipeFromOptions({ scheme: "W8A16", format: "plain" }), {
    tensors,
    config,
  });
  assert.deepEqual(plain.warnings, []);
  assert.deepEqual(
    plain.files.flatMap(({ tensors }) => tensors)
      .map(({ name, dtype, shape }) => `${name} ${dtype} ${shape}`).sort(),
    tensors.map(({ name, dtype, shape }) => `${name} ${dtype} ${shape}`).sort(),
  );
  // Nothing would round the activations.
  await assert.rejects(
    planOf(recipeFromOptions({ scheme: "W8A8", format: "plain" }), { tensors, config }),
    /plain holds weights alone/,
  );
});

/** The section that a plan writes. */
function sectionOf(made: Plan) {
  const { bytes } = made.sidecars.find(({ path }) => path === "config.json")!;
  return JSON.parse(new TextDecoder().decode(bytes));
}

Deno.test("a list of what is left alone names the head as the architecture does, and whole towers of wrappers", async () => {
  const bert = await planOf(recipeFromOptions({ scheme: "NF4" }), {
    tensors: [
      tensor("bert.embeddings.word_embeddings.weight", 96, 64),
      tensor("bert.encoder.layer.0.attention.self.query.weight", 64, 64),
      tensor("cls.predictions.transform.dense.weight", 64, 64),
    ],
    config: { model_type: "bert", architectures: ["BertForMaskedLM"], dtype: "bfloat16" },
  });
  const { llm_int8_skip_modules: skipped } = sectionOf(bert).quantization_config;
  assert(skipped.includes("cls.predictions.decoder"), skipped.join());
  assert.equal(fates(bert)["cls.predictions.transform.dense.weight"], "copy");
  const wrapper = {
    tensors: [
      tensor("vision_tower.encoder.layers.0.mlp.fc1.weight", 64, 64),
      tensor("vision_tower.encoder.layers.1.mlp.fc1.weight", 64, 64),
      tensor("language_model.model.layers.0.mlp.down_proj.weight", 64, 64),
      tensor("language_model.model.layers.1.mlp.down_proj.weight", 64, 64),
      tensor("multi_modal_projector.mm_input_projection_weight", 64, 64),
    ],
    config: {
      model_type: "gemma3",
      architectures: ["Gemma3ForConditionalGeneration"],
      text_config: {},
    },
  };
  const packed = await planOf(recipeFromOptions({ scheme: "W8A16" }), wrapper);
  assert.deepEqual(sectionOf(packed).quantization_config.ignore, [
    "lm_head",
    "re:.*vision_tower\\..*",
  ]);
  assert.equal(of("transformers", packed).opens, "yes");
  const nf4 = await planOf(recipeFromOptions({ scheme: "NF4" }), wrapper);
  assert.deepEqual(sectionOf(nf4).quantization_config.llm_int8_skip_modules, [
    "lm_head",
    "vision_tower",
    ".*vision_tower",
  ]);
  // transformers has other names for the text model's layers.
  const ignoring = recipeFromOptions({ scheme: "W8A16" }, ["*.layers.1.mlp.down_proj"]);
  assert.equal(of("transformers", await planOf(ignoring, wrapper)).opens, "unknown");
});

Deno.test("a list that names a quantized layer by mistake is told of", async () => {
  const made = await planOf(recipeFromOptions({ scheme: "NF4" }, ["proj"]), {
    tensors: [tensor("proj.weight", 64, 64), tensor("out_proj.weight", 64, 64)],
    config: TINY_CONFIG,
  });
  assert.equal(of("transformers", made).opens, "no");
  assert.match(of("transformers", made).why, /has "proj", and so names "out_proj" too/);
});

Deno.test("a head of its own that is quantized is untied in config.json, in a wrapper's text model too", async () => {
  const recipe = parseRecipe("scheme: W8A16\nrules: [{match: lm_head, scheme: W8A16}]", "r");
  const tied = { ...TINY_CONFIG, tie_word_embeddings: true };
  assert.equal(sectionOf(await planOf(recipe, { config: tied })).tie_word_embeddings, false);
  const wrapped = await planOf(recipe, {
    config: { model_type: "wrapper", text_config: { tie_word_embeddings: true } },
  });
  assert.equal(sectionOf(wrapped).tie_word_embeddings, false);
  assert.equal(sectionOf(wrapped).text_config.tie_word_embeddings, false);
  // A head that is left alone stays as the config has it.
  const usual = await planOf(recipeFromOptions({ scheme: "W8A16" }), { config: tied });
  assert.equal(sectionOf(usual).tie_word_embeddings, true);
});

Deno.test("what bitsandbytes leaves alone gets the dtype that config.json announces, but for what is kept in float32", async () => {
  const mixed = (tensors: TensorInfo[]) =>
    tensors.map((info) => info.name.includes("norm") ? { ...info, dtype: "f32" as const } : info);
  const bias: TensorInfo = {
    name: "model.layers.0.mlp.gate.e_score_correction_bias",
    dtype: "f32",
    shape: [8],
  };
  const dtypes = (made: Plan) =>
    Object.fromEntries(
      made.files.flatMap(({ tensors }) => tensors.map(({ name, dtype }) => [name, dtype])),
    );
  const norm = "model.layers.1.input_layernorm.weight";
  for (const scheme of ["NF4", "LLM_INT8"]) {
    const made = await planOf(recipeFromOptions({ scheme }), {
      tensors: [...mixed(tinyTensors()), bias],
    });
    assert.equal(dtypes(made)[norm], "bf16", scheme);
    assert.equal(dtypes(made)[bias.name], "f32");
    const task = tasksOf(made).find(({ source }) => source.name === norm)!;
    assert.match("reason" in task ? task.reason : "", /want it in bf16/);
  }
  await assert.rejects(
    planOf(recipeFromOptions({ scheme: "NF4", method: "awq+gptq" }), {
      tensors: mixed(tinyTensors()),
      calibrate: true,
    }),
    /input_layernorm\.weight": it is f32, .* takes over scales keeps its dtype/,
  );
  const other = await planOf(recipeFromOptions({ scheme: "W8A16" }), {
    tensors: mixed(tinyTensors()),
  });
  assert.equal(dtypes(other)[norm], "f32");
  const announced = await planOf(recipeFromOptions({ scheme: "NF4" }), {
    config: { ...TINY_CONFIG, torch_dtype: "float16" },
  });
  assert.equal(dtypes(announced)["lm_head.weight"], "f16");
  assert.equal(
    sectionOf(announced).quantization_config.bnb_4bit_compute_dtype,
    "float16",
  );
});

Deno.test("partners that engines fuse are found by their names in models that Sluice does not run", async () => {
  const config = { ...TINY_CONFIG, model_type: "novel" };
  for (
    const [tensors, ignored, partner] of [
      [tinyTensors(), "*q_proj", "k_proj"],
      [tinyTensors(), "*.0.mlp.gate_proj", "up_proj"],
      [[...EXPERTS], "*.experts.0.down_proj", "experts\\.0\\.gate_proj"],
      [
        ["query", "key", "value"].map((name) => tensor(`encoder.0.attention.${name}.weight`, 8, 8)),
        "*.value",
        "query",
      ],
    ] as const
  ) {
    await assert.rejects(
      planOf(recipeFromOptions({ scheme: "W8A16" }, [ignored]), { tensors: [...tensors], config }),
      new RegExp(`inference engines fuse .*${partner}`),
    );
    // Rounded values as plain weights are nobody's to fuse.
    await planOf(recipeFromOptions({ scheme: "W8A16", format: "plain" }, [ignored]), {
      tensors: [...tensors],
      config,
    });
  }
  await planOf(recipeFromOptions({ scheme: "W8A16" }, ["re:.*[qkv]_proj"]), { config });
});

Deno.test("a pattern that names nothing is refused with the name that was probably meant", async () => {
  const attempt = (pattern: string, options = {}) =>
    planOf(recipeFromOptions({ scheme: "W8A16" }, [pattern]), options);
  for (
    const [pattern, meant] of [
      ["re:.*lm_hed", '"re:\\.\\*lm_head"'],
      ["*q_prj", '"\\*q_proj"'],
      ["q_proj", '"\\*q_proj"'],
      ["re:model\\.layers\\.0\\.self_atn\\..*", '"re:\\.\\*model\\.layers\\.0\\.self_attn"'],
      ["model.layers.0.self_attn.q_projj", '"model\\.layers\\.0\\.self_attn\\.q_proj"'],
    ] as const
  ) {
    await assert.rejects(
      attempt(pattern),
      new RegExp(`no tensor of .* matches it\\. Did you mean ${meant}\\?`),
      pattern,
    );
  }
  await assert.rejects(attempt("blocks.*"), /Its tensors have names such as "model\.layers/);
  await assert.rejects(
    planOf(parseRecipe("scheme: W8A16\nrules: [{match: '*k_prj', scheme: none}]", "r")),
    /Cannot apply the rule for "\*k_prj".*Did you mean "\*k_proj"/,
  );
  // A head that is tied to the embedding has a name, though no tensor.
  const tied = {
    tensors: tinyTensors("bf16", { tied: true }),
    config: { ...TINY_CONFIG, tie_word_embeddings: true },
  };
  await attempt("lm_head", tied);
  await assert.rejects(
    planOf(parseRecipe("scheme: W8A16\nrules: [{match: lm_head, scheme: W8A16}]", "r"), tied),
    /"lm_head\.weight" is tied to the embedding/,
  );
  await assert.rejects(
    attempt("lm_head", { ...tied, config: { ...TINY_CONFIG, tie_word_embeddings: false } }),
    /no tensor of/,
  );
  const classifier = { ...tied.config, architectures: ["BertForSequenceClassification"] };
  await assert.rejects(attempt("lm_head", { ...tied, config: classifier }), /no tensor of/);
});

Deno.test("routers, heads, embeddings and other parts of unknown models are left alone", async () => {
  const names = [
    "shared",
    "decoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "model.layers.0.block_sparse_moe.router.layer",
    "model.layers.0.mlp.shared_expert_gate",
    "pre_classifier",
    "classifier.out_proj",
    "lm_head.dense",
    "vision_tower.blocks.0.fc1",
  ];
  const made = await planOf(recipeFromOptions({ scheme: "W8A16" }), {
    tensors: [
      ...names.map((name) => tensor(`${name}.weight`, 64, 64)),
      tensor("encoder.block.0.wi.weight", 64, 64),
      tensor("projector.input_projection_weight", 64, 64),
    ],
    config: { model_type: "novel" },
  });
  const kinds = fates(made);
  for (const name of names) assert.equal(kinds[`${name}.weight`], "copy", name);
  assert.equal(kinds["projector.input_projection_weight"], "copy");
  assert.equal(kinds["encoder.block.0.wi.weight"], "int");
});

Deno.test("a section of gptq says how codes were chosen, and of rounding to nearest no more than that", async () => {
  const section = async (options: Record<string, unknown>, calibrated = true) => {
    const made = await planOf(
      recipeFromOptions({ scheme: "W4A16", "group-size": 32, format: "gptq", ...options }),
      { calibrate: calibrated },
    );
    const { quantization_config: { meta, ...keys } } = sectionOf(made);
    return { ...keys, ...meta };
  };
  const nearest = await section({ method: "rtn" }, false);
  assert.equal(nearest.method, "rtn");
  for (const key of ["damp_percent", "static_groups", "true_sequential", "act_group_aware"]) {
    assert(!(key in nearest), key);
  }
  assert.equal(nearest.desc_act, false);
  const usual = await section({ method: "awq+gptq" });
  assert.equal(usual.method, "awq+gptq");
  assert.equal(usual.static_groups, true);
  assert.equal(usual.true_sequential, true);
  assert.equal(usual.act_group_aware, false);
  assert(!("damp_percent" in usual));
  const asked = await section({ method: "gptq", damping: 0.02, "column-order": "group-aware" });
  assert.equal(asked.damp_percent, 0.02);
  assert.equal(asked.act_group_aware, true);
});
