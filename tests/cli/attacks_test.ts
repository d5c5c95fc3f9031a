/**
 * `sluice quantize` on hostile and broken input: the right exit code, one sentence, and nothing
 * left behind.
 */
import assert from "node:assert/strict";
import { attacks, writeAttack } from "../attacks/collection.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "../tiny.ts";
import { inFolder, names, type Outcome, sluice } from "./host.ts";

/**
 * One line that begins with the program's name and holds no character that a terminal would act on.
 */
function checkSentence({ err, out }: Outcome): void {
  assert.match(err, /^sluice: .+[.]\n$/s);
  assert.equal(err.trimEnd().split("\n").length, 1, err);
  // deno-lint-ignore no-control-regex -- control characters are what is looked for
  assert.doesNotMatch(err.trimEnd(), /[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/);
  assert.equal(out, "");
}

Deno.test("quantize is tried on at least 60 hostile checkpoints", () => {
  assert.ok(attacks.length >= 60, `there are ${attacks.length}`);
});

for (const attack of attacks) {
  Deno.test({
    name: `quantize refuses ${attack.name}`,
    ignore: attack.links !== undefined && Deno.build.os === "windows",
    fn: () =>
      inFolder(async (folder) => {
        await Deno.mkdir(`${folder}/in`);
        const model = await writeAttack(attack, `${folder}/in`);
        const before = names(`${folder}/in`);
        const outcome = await sluice(
          ["quantize", model, "--output", `${folder}/new/out`, "--device", "wasm", "--quiet"],
        );
        assert.equal(outcome.code, attack.error === "RequestError" ? 1 : 2, outcome.err);
        checkSentence(outcome);
        assert.deepEqual(names(folder), ["in"]);
        assert.deepEqual(names(`${folder}/in`), before);
      }),
  });
}

/** Checkpoints whose structure is right, and what is wrong is found while planning or running. */
const BROKEN: readonly {
  readonly name: string;
  readonly code: number;
  readonly says: RegExp;
  readonly words?: readonly string[];
  readonly make: () => Promise<string>;
}[] = [
  ...([["NaN", [0xc0, 0x7f]], ["infinity", [0x80, 0x7f]]] as const).flatMap(([what, bytes]) =>
    ["W4A16", "W8A8", "FP8_DYNAMIC", "NF4", "LLM_INT8"].map((scheme) => ({
      name: `a weight with ${what}, quantized to ${scheme}`,
      code: 2,
      says: /model\.layers\.1\.mlp\.down_proj\.weight/,
      words: [
        "--scheme",
        scheme,
        "--method",
        "rtn",
        ...(scheme === "W4A16" ? ["--group-size", "32"] : []),
      ],
      make: () =>
        makeCheckpoint(tinyTensors(), {
          config: TINY_CONFIG,
          change(name, data) {
            if (name === "model.layers.1.mlp.down_proj.weight") data.set(bytes, 4000);
          },
        }),
    }))
  ),
  {
    name: "a group size that divides no row",
    code: 1,
    says: /groups? .*48.*(16|32)/s,
    words: ["--scheme", "W4A16", "--method", "rtn", "--group-size", "48"],
    make: () => makeCheckpoint(tinyTensors(), { config: TINY_CONFIG }),
  },
  {
    name: "a checkpoint that GPTQ has quantized",
    code: 1,
    says: /quantized already \(gptq\)/,
    make: () =>
      makeCheckpoint(tinyTensors(), {
        config: { ...TINY_CONFIG, quantization_config: { quant_method: "gptq", bits: 4 } },
      }),
  },
  {
    name: "a checkpoint with nothing to quantize",
    code: 1,
    says: /leaves every one of its 1 tensors as it is/,
    make: () => makeCheckpoint([{ name: "a", dtype: "i64", shape: [3] }]),
  },
  ...["--evaluate", "--method=gptq"].map((word) => ({
    name: `a tokenizer with tokens that the model does not know (${word})`,
    code: 2,
    says: /tokenizer\.json.*it gives token \d+, and the model has embeddings of 96 tokens/,
    words: ["--scheme", "W8A16", word],
    make: async () => {
      const folder = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
      const tokenizer = new URL("../../sample/model/tokenizer.json", import.meta.url);
      await Deno.copyFile(tokenizer, `${folder}/tokenizer.json`);
      return folder;
    },
  })),
  {
    name: "an adapter",
    code: 1,
    says: /is an adapter, not a model\. Merge the adapter into its base model first/,
    make: () =>
      makeCheckpoint([
        {
          name: "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight",
          dtype: "f32",
          shape: [8, 64],
        },
        {
          name: "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight",
          dtype: "f32",
          shape: [64, 8],
        },
      ]),
  },
  {
    name: "a model that MLX has quantized",
    code: 1,
    says: /quantized already \(MLX\)/,
    make: () =>
      makeCheckpoint([
        { name: "model.layers.0.mlp.up_proj.weight", dtype: "u32", shape: [64, 8] },
        { name: "model.layers.0.mlp.up_proj.scales", dtype: "f16", shape: [64, 1] },
      ], { config: { ...TINY_CONFIG, quantization: { group_size: 64, bits: 4 } } }),
  },
  {
    name: "a cast to the dtype that is there already",
    code: 1,
    says:
      /leaves every one of its 21 tensors as it is \(it is bf16 already\)\. There is nothing to do/,
    words: ["--scheme", "BF16"],
    make: () => makeCheckpoint(tinyTensors(), { config: TINY_CONFIG }),
  },
  {
    name: "weights in 8-bit floats without scales, by the name of their dtype",
    code: 1,
    says: /\(f8_e4m3 is no float dtype that is quantized\)\. Give the checkpoint as it was trained/,
    make: () => makeCheckpoint([{ name: "a.weight", dtype: "f8_e4m3", shape: [64, 64] }]),
  },
  {
    name: "a model without a tokenizer, to be measured",
    code: 1,
    says: /tokenizer/,
    words: ["--scheme", "W8A16", "--evaluate"],
    make: () => makeCheckpoint(tinyTensors(), { config: TINY_CONFIG }),
  },
  {
    name: "an architecture that Sluice does not run, to be measured",
    code: 1,
    says: /model_type is "mamba"/,
    words: ["--scheme", "W8A16", "--evaluate"],
    make: () => makeCheckpoint(tinyTensors(), { config: { ...TINY_CONFIG, model_type: "mamba" } }),
  },
  {
    name: "a config with a negative size",
    code: 2,
    says: /hidden_size/,
    words: ["--scheme", "W8A16"],
    make: () => makeCheckpoint(tinyTensors(), { config: { ...TINY_CONFIG, hidden_size: -64 } }),
  },
  {
    name: "a model whose tensors do not have the shapes of its config, to be measured",
    code: 2,
    says: /shape/,
    words: ["--scheme", "W8A16", "--evaluate"],
    make: async () => {
      // As many tokens as the sample's tokenizer has.
      const tensors = tinyTensors().map((tensor) =>
        tensor.shape[0] === 96 ? { ...tensor, shape: [4096, 64] } : tensor
      );
      const folder = await makeCheckpoint(tensors, {
        config: { ...TINY_CONFIG, intermediate_size: 64, vocab_size: 4096 },
      });
      const tokenizer = new URL("../../sample/model/tokenizer.json", import.meta.url);
      await Deno.copyFile(tokenizer, `${folder}/tokenizer.json`);
      return folder;
    },
  },
];

for (const { name, code, says, words = ["--scheme", "W4A16", "--method", "rtn"], make } of BROKEN) {
  Deno.test(`quantize refuses ${name}`, () =>
    inFolder(async (folder) => {
      const model = await make();
      try {
        const outcome = await sluice(
          ["quantize", model, "--output", `${folder}/out`, "--device", "wasm", "--quiet", ...words],
        );
        assert.equal(outcome.code, code, outcome.err);
        assert.match(outcome.err, says);
        checkSentence(outcome);
        assert.deepEqual(names(folder), []);
      } finally {
        await Deno.remove(model, { recursive: true });
      }
    }));
}
