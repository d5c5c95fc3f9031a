/**
 * The Llama family to the last bits of float32 (golden/llama.json), and how its graph names what
 * engines fuse.
 */
import assert from "node:assert/strict";
import { CheckpointError, UnsupportedError } from "../../src/errors.ts";
import { checkShapes, configureModel, familyOf } from "../../src/families/mod.ts";
import type { Linear, Model } from "../../src/family.ts";
import { originalWeights } from "../../src/forward/weights.ts";
import { graphsOf } from "../../src/graph/block_graph.ts";
import { openCheckpoint } from "../../src/sources/checkpoint.ts";
import { onEveryBackend } from "../present.ts";
import { largestDifference, runModel } from "./run.ts";

interface Golden {
  readonly tokens: readonly number[];
  readonly cases: Readonly<
    Record<string, {
      readonly weights: string;
      readonly config: Record<string, unknown>;
      /**
       * Largest difference that float32 makes, and that frequencies off by 2^-23 make, both in
       * transformers.
       */
      readonly rounding: number;
      readonly angle: number;
    }>
  >;
}

const GOLDEN = new URL("../golden/", import.meta.url);
const golden: Golden = JSON.parse(await Deno.readTextFile(new URL("llama.json", GOLDEN)));

async function expectedLogits(name: string): Promise<Float32Array> {
  await using source = await openCheckpoint(new URL("llama_logits.safetensors", GOLDEN));
  return new Float32Array((await source.read(name)).buffer);
}

for (const [name, { weights, config, rounding, angle }] of Object.entries(golden.cases)) {
  onEveryBackend(
    `the ${name} model's logits equal those of transformers in float64`,
    async (backend) => {
      await using source = await openCheckpoint(new URL(weights, GOLDEN));
      const model = configureModel(config, (tensor) => source.tensors.has(tensor));
      const ids = Uint32Array.from(golden.tokens);
      const { logits } = await runModel(model, originalWeights(source), { ids, backend });
      // Ours are f32 throughout, as is the run that `rounding` comes from, but in another order of
      // summation: allow four times as much. A frequency may end one unit in the last place off,
      // twice if cosine and sine add theirs.
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
const allButHeadAndBiases = (name: string) =>
  !name.endsWith(".bias") && !name.endsWith("lm_head.weight");

function configured(changes: Record<string, unknown>, has = allButHeadAndBiases): Model {
  return configureModel({ ...CONFIG, ...changes }, has);
}

/** The linears of a block, in the order they are run. */
function linearsOf(model: Model, block: number): Linear[] {
  return graphsOf(model)[block]!.stages.flatMap(({ linears }) => [...linears.values()]);
}

Deno.test("a family is found by model_type, and none for a model that is not known", () => {
  assert.ok(familyOf({ model_type: "mistral" })?.modelTypes.includes("mistral"));
  assert.equal(familyOf({ model_type: "mamba" }), undefined);
  assert.equal(familyOf({ model_type: 7 }), undefined);
  assert.equal(familyOf({}), undefined);
});

Deno.test("linears that engines fuse share a label within their block", () => {
  const part = (label: string | undefined) => label?.replace("model.layers.1.", "");
  assert.deepEqual(
    linearsOf(configured({}), 1).map(({ at, fused }) => [part(at.of), part(fused)]),
    [
      ["self_attn.q_proj.weight", "self_attn.qkv_proj"],
      ["self_attn.k_proj.weight", "self_attn.qkv_proj"],
      ["self_attn.v_proj.weight", "self_attn.qkv_proj"],
      ["self_attn.o_proj.weight", undefined],
      ["mlp.gate_proj.weight", "mlp.gate_up_proj"],
      ["mlp.up_proj.weight", "mlp.gate_up_proj"],
      ["mlp.down_proj.weight", undefined],
    ],
  );
});

Deno.test("a head of its own is used even where the config says tied", () => {
  const head = (model: Model) => model.head?.linear.at.of;
  assert.equal(head(configured({})), "model.embed_tokens.weight");
  assert.equal(head(configured({}, (name) => !name.endsWith(".bias"))), "lm_head.weight");
  assert.equal(head(configured({ tie_word_embeddings: false })), undefined);
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
      (error) => {
        assert.ok(error instanceof CheckpointError, `${JSON.stringify(changes)}: ${error}`);
        assert.match(error.message, /^Cannot (use|run) .*\.$/);
        return true;
      },
      JSON.stringify(changes),
    );
  }
});

Deno.test("a config that asks for other arithmetic is refused by name", () => {
  for (
    const [changes, says] of [
      [{ hidden_act: "quick_gelu" }, /"quick_gelu"/],
      [{ rope_scaling: { type: "novel", factor: 2 } }, /"novel"/],
    ] as const
  ) {
    assert.throws(() => configured(changes), (error) => {
      assert.ok(error instanceof UnsupportedError, String(error));
      assert.match(error.message, says);
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
});

Deno.test("biases that the config does not announce are refused, and announced ones must be there", () => {
  const withBiases = (name: string) => !name.endsWith("lm_head.weight");
  assert.throws(() => configured({}, withBiases), UnsupportedError);
  const model = configured({ attention_bias: true, mlp_bias: true }, withBiases);
  assert.equal(linearsOf(model, 0)[0]!.bias, "model.layers.0.self_attn.q_proj.bias");
  assert.throws(() => configured({ attention_bias: true }), CheckpointError);
});

Deno.test("tensors whose shapes the config contradicts are refused", async () => {
  await using source = await openCheckpoint(new URL("llama_tied.safetensors", GOLDEN));
  const shapeOf = (name: string) => source.tensors.get(name)?.shape;
  const has = (name: string) => source.tensors.has(name);
  checkShapes(configured({}, has), shapeOf);
  assert.throws(
    () => checkShapes(configured({ intermediate_size: 95 }, has), shapeOf),
    /"model\.layers\.0\.mlp\.gate_proj\.weight" has shape \[96, 64\], config\.json implies \[95, 64\]/,
  );
});
