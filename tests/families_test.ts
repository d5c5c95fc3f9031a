/** The Llama family: logits against transformers (tests/golden/llama.json), and configs that must be refused. */
import assert from "node:assert/strict";
import { type Backend, makeScope, type Scope, type Tensor } from "../src/backend.ts";
import { referenceBackend } from "../src/backends/reference.ts";
import { CheckpointError, UnsupportedError } from "../src/errors.ts";
import { checkShapes, FAMILIES, familyOf } from "../src/families/mod.ts";
import { type Forward, forwardBlock, type Model } from "../src/family.ts";
import { addBias, embedding, matmulNt } from "../src/ops/mod.ts";
import type { TensorSource } from "../src/source.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { onEveryBackend } from "./present.ts";

interface Golden {
  readonly tokens: readonly number[];
  readonly cases: Readonly<
    Record<string, {
      readonly weights: string;
      readonly config: Record<string, unknown>;
      /** Largest difference that float32 makes, and that frequencies off by 2^-23 make, both in transformers. */
      readonly rounding: number;
      readonly angle: number;
    }>
  >;
}

const GOLDEN = new URL("./golden/", import.meta.url);
const golden: Golden = JSON.parse(await Deno.readTextFile(new URL("llama.json", GOLDEN)));

function configure(config: Record<string, unknown>, source: TensorSource): Model {
  const family = familyOf(config);
  assert.ok(family);
  return family.configure(config, (name) => source.tensors.has(name));
}

/** All weights on the device, and streams of hidden states over them. */
async function load(
  model: Model,
  { source, length, scope }: { source: TensorSource; length: number; scope: Scope },
): Promise<{ weights: ReadonlyMap<string, Tensor>; stream: (scope: Scope) => Forward }> {
  const { backend } = scope;
  const weights = new Map<string, Tensor>();
  for (const [name, { dtype, shape }] of source.tensors) {
    assert.ok(dtype === "f32");
    const tensor = scope.alloc(dtype, shape);
    backend.write(tensor, await source.read(name));
    weights.set(name, tensor);
  }
  const tables = model.rotary(length);
  const [cos, sin] = [tables.cos, tables.sin].map((values) => {
    const tensor = scope.alloc("f32", [length, tables.halfDim]);
    backend.write(tensor, new Uint8Array(values.buffer));
    return tensor;
  });
  const stream = (scope: Scope): Forward => ({
    scope,
    cos: cos!,
    sin: sin!,
    weight: (name) => weights.get(name)!,
    linear({ weight, bias }, x, scope) {
      const w = weights.get(weight)!;
      const y = scope.alloc("f32", [x.shape[0]!, w.shape[0]!]);
      backend.run(matmulNt, { x, w, y }, { column: 0 });
      if (bias) backend.run(addBias, { b: weights.get(bias)!, y });
      return y;
    },
  });
  return { weights, stream };
}

/** The whole model over one window: logits f32[T, V]. */
async function runModel(
  model: Model,
  { source, ids, backend }: { source: TensorSource; ids: readonly number[]; backend: Backend },
): Promise<Float32Array> {
  using scope = backend.scope();
  const { weights, stream } = await load(model, { source, length: ids.length, scope });
  const tokens = scope.alloc("u32", [ids.length]);
  backend.write(tokens, new Uint8Array(Uint32Array.from(ids).buffer));
  let x = scope.alloc("f32", [ids.length, model.hiddenSize]);
  backend.run(embedding, { ids: tokens, table: weights.get(model.embedding)!, x }, { first: 0 });
  for (const block of model.blocks) {
    using inner = backend.scope();
    x = scope.adopt(inner.release(forwardBlock(block, x, stream(inner))));
  }
  const forward = stream(scope);
  const logits = forward.linear(model.head, model.finish(x, forward), scope);
  const [bytes] = await backend.read(logits);
  return new Float32Array(bytes!.buffer);
}

function largestDifference(a: Float32Array, b: Float32Array): number {
  assert.equal(a.length, b.length);
  return a.reduce((most, value, i) => {
    assert.ok(Number.isFinite(value));
    return Math.max(most, Math.abs(value - b[i]!));
  }, 0);
}

async function expectedLogits(name: string): Promise<Float32Array> {
  await using source = await openCheckpoint(new URL("llama_logits.safetensors", GOLDEN));
  return new Float32Array((await source.read(name)).buffer);
}

for (const [name, { weights, config, rounding, angle }] of Object.entries(golden.cases)) {
  onEveryBackend(
    `the ${name} model's logits equal those of transformers`,
    async (backend) => {
      await using source = await openCheckpoint(new URL(weights, GOLDEN));
      const model = configure(config, source);
      const logits = await runModel(model, { source, ids: golden.tokens, backend });
      // The golden numbers are float64. Ours are f32 throughout, as is the run that `rounding` comes from, but in another order of
      // summation: allow four times as much. A frequency may end one unit in the last place off, twice if cosine and sine add theirs.
      const bound = 4 * rounding + 2 * angle;
      const difference = largestDifference(logits, await expectedLogits(name));
      assert.ok(difference <= bound, `the logits differ by ${difference}, more than ${bound}`);
    },
  );
}

Deno.test("each golden case tells its config from the plain one by far more than the bound", async () => {
  const plain = await expectedLogits("plain");
  for (const [name, { rounding, angle }] of Object.entries(golden.cases)) {
    if (name === "plain") continue;
    const difference = largestDifference(await expectedLogits(name), plain);
    assert.ok(difference > 1000 * (4 * rounding + 2 * angle), `${name} differs by ${difference}`);
  }
});

const CONFIG = {
  model_type: "llama",
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 128,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: true,
};
const llama = FAMILIES.find(({ name }) => name === "llama")!;
const allButHeadAndBiases = (name: string) => !name.endsWith(".bias") && name !== "lm_head.weight";

function configured(changes: Record<string, unknown>, has = allButHeadAndBiases): Model {
  return llama.configure({ ...CONFIG, ...changes }, has);
}

Deno.test("a family is found by model_type, and none for a model that is not known", () => {
  assert.equal(familyOf({ model_type: "mistral" })?.name, "llama");
  assert.equal(familyOf({ model_type: "mamba" }), undefined);
  assert.equal(familyOf({ model_type: 7 }), undefined);
  assert.equal(familyOf({}), undefined);
});

Deno.test("linears with one input share a step, and those that engines fuse share a label within their block", () => {
  const { blocks } = configured({});
  assert.deepEqual(
    blocks[1]!.steps.flatMap(({ tap, linears }) =>
      linears.map(({ weight, fused }) => [weight, tap, fused])
    ),
    [
      ["q_proj", "attn_in", "qkv_proj"],
      ["k_proj", "attn_in", "qkv_proj"],
      ["v_proj", "attn_in", "qkv_proj"],
      ["o_proj", "attn_out", undefined],
    ].map(([part, tap, fused]) => [
      `model.layers.1.self_attn.${part}.weight`,
      tap,
      fused && `model.layers.1.self_attn.${fused}`,
    ]).concat(
      [
        ["gate_proj", "mlp_in", "gate_up_proj"],
        ["up_proj", "mlp_in", "gate_up_proj"],
        ["down_proj", "mlp_down", undefined],
      ].map(([part, tap, fused]) => [
        `model.layers.1.mlp.${part}.weight`,
        tap,
        fused && `model.layers.1.mlp.${fused}`,
      ]),
    ),
  );
});

Deno.test("a head of its own is used even where the config says tied", () => {
  assert.equal(configured({}).head.weight, "model.embed_tokens.weight");
  assert.equal(configured({}, (name) => !name.endsWith(".bias")).head.weight, "lm_head.weight");
  assert.throws(() => configured({ tie_word_embeddings: false }), /no tensor "lm_head\.weight"/);
});

Deno.test("a config with a value of another type or out of range is refused as a broken checkpoint", () => {
  const hostile: Record<string, unknown>[] = [
    { hidden_size: 1e18 },
    { hidden_size: 0 },
    { hidden_size: 64.5 },
    { hidden_size: "64" },
    { hidden_size: [64] },
    { intermediate_size: -96 },
    { num_hidden_layers: -1 },
    { num_hidden_layers: 1e9 },
    { num_hidden_layers: 3, has: "only the layers below 2" },
    { num_attention_heads: 3 },
    { num_key_value_heads: 3 },
    { num_key_value_heads: 0 },
    { head_dim: 15 },
    { head_dim: NaN },
    { vocab_size: 2 ** 25 },
    { max_position_embeddings: Infinity },
    { rms_norm_eps: "tiny" },
    { rms_norm_eps: -1 },
    { hidden_act: 3 },
    { attention_bias: "yes" },
    { tie_word_embeddings: 1 },
    { rope_theta: 0 },
    { rope_theta: "10000" },
    { rope_scaling: [] },
    { rope_scaling: "linear" },
    { rope_scaling: { type: 5 } },
    { rope_scaling: { type: "linear" } },
    { rope_scaling: { type: "linear", factor: 0 } },
    { rope_scaling: { rope_type: "llama3", factor: 8, low_freq_factor: 4, high_freq_factor: 1 } },
    { rope_scaling: { rope_type: "yarn", factor: 4, original_max_position_embeddings: -1 } },
    { rope_parameters: { rope_type: "default", rope_theta: -5 } },
    { model_type: "mistral", sliding_window: 0 },
    { model_type: "mistral", sliding_window: "all" },
  ];
  const layersBelow2 = (name: string) => allButHeadAndBiases(name) && !name.includes("layers.2");
  for (const changes of hostile) {
    assert.throws(
      () => configured(changes, layersBelow2),
      (error) =>
        error instanceof CheckpointError && /^Cannot (use|evaluate) .*\.$/.test(error.message),
      JSON.stringify(changes),
    );
  }
});

Deno.test("a config that asks for other arithmetic is refused by name", () => {
  const unknown: [Record<string, unknown>, RegExp][] = [
    [{ hidden_act: "gelu" }, /"gelu", expected "silu"/],
    [{ rope_scaling: { type: "dynamic", factor: 2 } }, /"dynamic"/],
    [{ rope_parameters: { rope_type: "longrope", factor: 2 } }, /"longrope"/],
    [{ rope_parameters: { full_attention: { rope_type: "default" } } }, /"full_attention"/],
    [{ partial_rotary_factor: 0.5 }, /0\.5 of each head/],
    [{ layer_types: ["full_attention", "sliding_attention"] }, /"sliding_attention"/],
    [{ model_type: "mistral", layer_types: ["full_attention"] }, /"full_attention"/],
  ];
  for (const [changes, pattern] of unknown) {
    assert.throws(() => configured(changes), (error) => {
      assert.ok(error instanceof UnsupportedError, String(error));
      assert.match(error.message, pattern);
      return true;
    });
  }
});

Deno.test("what a config does not say is what transformers takes; swish is another name of SiLU", () => {
  const { blocks } = configured({ hidden_act: "swish" });
  assert.equal(blocks.length, 2);
  const unsaid = (type: string, ...keys: (keyof typeof CONFIG)[]) =>
    configured(Object.fromEntries([...keys.map((key) => [key, undefined]), ["model_type", type]]));
  assert.equal(unsaid("llama", "max_position_embeddings").maxPositions, 2048);
  assert.equal(unsaid("mistral", "max_position_embeddings").maxPositions, 131072);
  const rows = (model: Model, part: string) => model.shapes.get(`model.layers.1.${part}.weight`);
  const bare = unsaid("mistral", "hidden_size", "intermediate_size", "num_attention_heads");
  assert.deepEqual(rows(bare, "mlp.gate_proj"), [14336, 4096]);
  assert.deepEqual(rows(unsaid("llama", "intermediate_size"), "mlp.up_proj"), [11008, 64]);
  const keys = "num_key_value_heads";
  assert.deepEqual(rows(unsaid("llama", keys), "self_attn.k_proj"), [64, 64]);
  assert.throws(
    () => unsaid("mistral", keys),
    /num_attention_heads \(4\) is not a multiple of .* \(8\)/,
  );
  assert.equal(unsaid("llama", "vocab_size").vocabSize, 32000);
  const none = { num_hidden_layers: undefined };
  assert.equal(configured(none, (name) => !/lm_head|bias$/.test(name)).blocks.length, 32);
});

Deno.test("biases that the config does not announce are refused, and announced ones must be there", () => {
  const withBiases = (name: string) => name !== "lm_head.weight";
  assert.throws(() => configured({}, withBiases), UnsupportedError);
  const { blocks } = configured({ attention_bias: true, mlp_bias: true }, withBiases);
  assert.equal(blocks[0]!.linears[0]!.bias, "model.layers.0.self_attn.q_proj.bias");
  assert.throws(() => configured({ attention_bias: true }), CheckpointError);
});

Deno.test("tensors whose shapes the config contradicts are refused", async () => {
  await using source = await openCheckpoint(new URL("llama_tied.safetensors", GOLDEN));
  const shapeOf = (name: string) => source.tensors.get(name)?.shape;
  checkShapes(configure(CONFIG, source), shapeOf);
  assert.throws(
    () => checkShapes(configure({ ...CONFIG, intermediate_size: 95 }, source), shapeOf),
    /"model\.layers\.0\.mlp\.gate_proj\.weight" has shape \[96, 64\], config\.json implies \[95, 64\]/,
  );
});

Deno.test("a block's forward pass leaves nothing on the device but its result, and its input as it was", async () => {
  await using source = await openCheckpoint(new URL("llama_tied.safetensors", GOLDEN));
  const model = configure(CONFIG, source);
  const plain = referenceBackend();
  const live = new Set<Tensor>();
  const backend: Backend = {
    ...plain,
    alloc(dtype, shape) {
      const tensor = plain.alloc(dtype, shape);
      const dispose = tensor[Symbol.dispose].bind(tensor);
      live.add(tensor);
      tensor[Symbol.dispose] = () => {
        assert.ok(live.delete(tensor), "a tensor was freed twice");
        dispose();
      };
      return tensor;
    },
    scope: () => makeScope(backend),
  };
  using scope = backend.scope();
  const { stream } = await load(model, { source, length: 5, scope });
  const x = scope.alloc("f32", [5, model.hiddenSize]);
  backend.write(x, new Uint8Array(new Float32Array(5 * model.hiddenSize).fill(0.5).buffer));
  const before = [...live];
  const inner = backend.scope();
  const y = forwardBlock(model.blocks[0]!, x, stream(inner));
  assert.deepEqual([...live], [...before, y]);
  inner[Symbol.dispose]();
  assert.deepEqual([...live], before);
  const [bytes] = await backend.read(x);
  assert.ok(new Float32Array(bytes!.buffer).every((value) => value === 0.5));
});
