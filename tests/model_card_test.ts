/**
 * Model cards: whole cards against golden text, front matter of others read without trust, and what
 * both parsers of YAML make of it.
 */
import assert from "node:assert/strict";
import { parse } from "yaml";
import { type CardFacts, modelCard } from "../src/publish/model_card.ts";
import { readSourceCard } from "../src/sources/source_card.ts";

const SOURCE = `---
library_name: transformers
license: other
license_name: llama3.2
license_link: LICENSE.txt
language:
- en
- no
pipeline_tag: text-generation
tags:
- conversational
- mlx
extra_gated_prompt: Agree first.
extra_gated_fields:
  Name: text
model-index:
- name: x
  results: [{metrics: [{value: 1.5}]}]
---
# The base

license: mit
`;

const FACTS: CardFacts = {
  name: "me/Tiny-W4A16",
  base: {
    id: "org/Tiny_1",
    commit: "0123456789abcdef0123456789abcdef01234567",
    card: readSourceCard(SOURCE),
  },
  quantizedBy: "me",
  format: "compressed-tensors",
  schemes: [{ name: "int4, groups of 64, symmetric", weights: 210 }],
  methods: [{ name: "awq+gptq", weights: 209 }, { name: "awq+rtn", weights: 1 }],
  calibration: {
    corpus: "chats_1.jsonl",
    seqLen: 512,
    windows: 128,
    available: 4321,
    seed: 7,
    sha256: "c0ffee",
  },
  bitsPerWeight: 4.25131,
  architecture: "LlamaForCausalLM",
  command: "sluice quantize org/Tiny_1 --scheme W4A16 --group-size 64 --output out",
  recipe: { version: 1, scheme: "W4A16" },
  versions: { Sluice: "0.1.0", Deno: "2.9.6" },
  device: "WebAssembly SIMD, 2 threads",
  bytes: 123_456_789,
  sourceBytes: 269_060_000,
  scores: {
    perplexity: { perplexity: 37.8861, original_perplexity: 37.4335 },
    divergence: {
      mean: 0.012712,
      standard_error: 0.000077,
      p99: 0.06681,
      same_top_percent: 91.934,
    },
  },
  protocol: {
    corpus: "wikitext2 (test)",
    seqLen: 2048,
    windows: 40,
    available: 141,
    sha256: "5ea1",
  },
  loaders: [
    { name: "transformers", opens: "yes", why: "with compressed-tensors installed" },
    { name: "vLLM", opens: "yes", why: "natively" },
    { name: "ExLlama", opens: "no", why: "it reads GPTQ and EXL files" },
  ],
  limits: ["Evaluated in English only."],
};

const CARD = `---
base_model: org/Tiny_1
base_model_relation: quantized
library_name: transformers
pipeline_tag: text-generation
license: other
license_name: llama3.2
license_link: LICENSE.txt
language:
  - en
  - "no"
quantized_by: me
extra_gated_prompt: Agree first.
extra_gated_fields:
  Name: text
tags:
  - quantized
  - 4-bit
  - compressed-tensors
  - vllm
  - conversational
  - sluice
---

# Tiny-W4A16

[org/Tiny\\_1](https://huggingface.co/org/Tiny_1) with weights quantized by Sluice: int4, groups of 64, symmetric, stored as \`compressed-tensors\`, 4.251 bits per weight.

## How it was made

\`\`\`sh
sluice quantize org/Tiny_1 --scheme W4A16 --group-size 64 --output out
\`\`\`

The recipe:

\`\`\`yaml
version: 1
scheme: W4A16
\`\`\`

| made with |  |
|---|---|
| method | awq+gptq (209 weights), awq+rtn (1 weight) |
| calibrated on | chats\\_1.jsonl: 128 of 4,321 windows of 512 tokens, drawn with seed 7 |
| SHA-256 of those tokens | \`c0ffee\` |
| source commit | \`0123456789abcdef0123456789abcdef01234567\` |
| Sluice | 0.1.0 |
| Deno | 2.9.6 |
| device | WebAssembly SIMD, 2 threads |

## Quality

|  | original | quantized |
|---|---|---|
| perplexity | 37.4335 | 37.8861 (+1.21 %) |
| KL divergence, nats per token | 0 | 0.0127 ± 0.0000770 |
| KL divergence, 99th percentile | 0 | 0.0668 |
| same top token | 100 % | 91.93 % |

Measured on wikitext2 (test): 40 of 141 windows of 2,048 tokens that do not overlap, every token but a window's first predicted. The SHA-256 of those tokens is \`5ea1\`. KL divergence is from the original, over the whole vocabulary.

## Size

123 MB, from 269 MB (45.9 %).

## How to load it

With transformers (\`pip install transformers accelerate compressed-tensors\`):

\`\`\`python
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "me/Tiny-W4A16"
model = AutoModelForCausalLM.from_pretrained(name, device_map="auto")
tokenizer = AutoTokenizer.from_pretrained(name)
\`\`\`

With vLLM:

\`\`\`sh
vllm serve me/Tiny-W4A16
\`\`\`

| loader | opens it |  |
|---|---|---|
| transformers | yes | with compressed-tensors installed |
| vLLM | yes | natively |
| ExLlama | no | it reads GPTQ and EXL files |

## Limits

- Rounded weights change some answers. Try the model on your own task before relying on it.
- The base model's limits and biases are here too.
- Evaluated in English only.

## Licence

\`other\`, \`llama3.2\`, \`LICENSE.txt\`, as [org/Tiny\\_1](https://huggingface.co/org/Tiny_1).
`;

const BARE = `---
library_name: transformers
tags:
  - quantized
  - 4-bit
  - bitsandbytes
  - sluice
---

# out

A model with weights quantized by Sluice, stored as \`bitsandbytes\`.

| scheme | matrices |
|---|---|
| nf4, blocks of 64 | 12 |
| LLM.int8(), threshold 6 | 2 |

## How to load it

With transformers (\`pip install transformers accelerate bitsandbytes\`):

\`\`\`python
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "out"
model = AutoModelForCausalLM.from_pretrained(name, device_map="auto")
tokenizer = AutoTokenizer.from_pretrained(name)
\`\`\`

| loader | opens it |  |
|---|---|---|
| transformers | yes | with bitsandbytes installed |

## Limits

- How far this model is from the original was not measured.
- Rounded weights change some answers. Try the model on your own task before relying on it.
- The base model's limits and biases are here too.

## Licence

No licence was found in the card of the base model. Ask its authors before using or sharing this model.
`;

Deno.test("modelCard() writes the whole card when everything is known", () => {
  assert.equal(modelCard(FACTS), CARD);
});

Deno.test("modelCard() says nothing of what is not known, and that no licence was found", () => {
  const card = modelCard({
    name: "out",
    format: "bitsandbytes",
    schemes: [
      { name: "nf4, blocks of 64", weights: 12 },
      { name: "LLM.int8(), threshold 6", weights: 2 },
    ],
    loaders: [{ name: "transformers", opens: "yes", why: "with bitsandbytes installed" }],
  });
  assert.equal(card, BARE);
});

Deno.test("modelCard() has the publisher's licence instead of the base model's", () => {
  const card = modelCard({ ...FACTS, license: "mit" });
  assert.match(card, /^license: mit$/m);
  assert.doesNotMatch(card, /license_name|license_link|llama3\.2/);
  assert.match(card, /## Licence\n\n`mit`\.\n$/);
});

Deno.test("modelCard() shows perplexity alone when nothing was compared with", () => {
  const card = modelCard({ ...FACTS, scores: { perplexity: { perplexity: 20.5 } } });
  assert.ok(card.includes("| perplexity |  | 20.5000 |"));
  assert.doesNotMatch(card, /KL divergence/);
});

Deno.test("modelCard() tells transformers to decompress where the stored zero points need it", () => {
  const why = "with quantization_config=CompressedTensorsConfig(dequantize=True): …";
  const card = modelCard({
    ...FACTS,
    loaders: [{ name: "transformers", opens: "yes", why }],
  });
  assert.match(card, /import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig\n/);
  assert.match(card, /quantization_config=CompressedTensorsConfig\(dequantize=True\)\)\n/);
});

Deno.test("front matter survives both versions of YAML, whatever the names in it", () => {
  const odd = ["no", "on", "1.10", "~", "null", "a: b # c", "- x", "line\nbreak", "0x10", "12:30"];
  for (const value of odd) {
    const card = modelCard({
      ...FACTS,
      quantizedBy: value,
      base: { id: value, card: { license: value, language: [value], tags: [], gate: {} } },
    });
    const front = card.split(/^---$/m)[1]!;
    for (const version of ["1.1", "1.2"] as const) {
      const fields = parse(front, { version });
      assert.equal(fields.base_model, value);
      assert.equal(fields.license, value);
      assert.deepEqual(fields.language, [value]);
      assert.equal(fields.quantized_by, value);
    }
  }
});

Deno.test("a command or a recipe cannot break out of its block, nor a name out of its line", () => {
  const card = modelCard({
    ...FACTS,
    command: "sluice plan '```'\n```\n# loud",
    protocol: { ...FACTS.protocol!, corpus: "a\n# b <img src=x> [c](d)" },
    base: { id: "evil](http://x)\n# boo", card: readSourceCard(SOURCE) },
  });
  assert.ok(card.includes("````sh\nsluice plan '```'\n```\n# loud\n````\n"));
  assert.ok(card.includes("Measured on a \\# b \\<img src=x\\> \\[c\\](d):"));
  assert.ok(card.includes("`evil](http://x) # boo` with weights"));
});

Deno.test("readSourceCard() reads licence, language, pipeline, tags and gate", () => {
  assert.deepEqual(readSourceCard(SOURCE), {
    license: "other",
    licenseName: "llama3.2",
    licenseLink: "LICENSE.txt",
    language: ["en", "no"],
    pipelineTag: "text-generation",
    tags: ["conversational", "mlx"],
    gate: { extra_gated_prompt: "Agree first.", extra_gated_fields: { Name: "text" } },
  });
  const windows = readSourceCard("\ufeff" + SOURCE.replaceAll("\n", "\r\n"));
  assert.equal(windows.licenseName, "llama3.2");
});

Deno.test("readSourceCard() leaves out what it cannot read, and throws at nothing", () => {
  const nothing = { tags: [], gate: {} };
  const front = (yaml: string) => readSourceCard(`---\n${yaml}\n---\ntext`);
  assert.deepEqual(readSourceCard(""), nothing);
  assert.deepEqual(readSourceCard("# no front matter\n---\nlicense: mit\n---\n"), nothing);
  assert.deepEqual(readSourceCard("---\nlicense: mit\n"), nothing);
  assert.deepEqual(front("just words"), nothing);
  assert.deepEqual(front("- a\n- b"), nothing);
  assert.deepEqual(front("license: {a: b}\nlanguage: 7\ntags: en"), {
    language: "7",
    tags: ["en"],
    gate: {},
  });
  assert.equal(front("license: mit\nlicense: apache-2.0").license, "apache-2.0");
  assert.equal(front("license: mit\nbad: [1, 2\nx: *nobody").license, "mit");
  assert.equal(front("license: mit\n\tbad: {").license, "mit");
  assert.equal(front("license: !!binary zzz\nlanguage: !x en").language, "en");
  assert.equal(front("__proto__: {license: mit}").license, undefined);
  assert.deepEqual(front(`license: mit\nbomb: ${"[".repeat(1e5)}`).tags, []);
  assert.deepEqual(front(`license: mit\nbomb: ${"{a: ".repeat(1e5)}`).tags, []);
  const laughs = ["a: &a [x, x, x, x, x, x, x, x, x]"];
  for (let i = 0; i < 9; i++) laughs.push(`a${i}: &a${i} [${`*a${i ? i - 1 : ""}, `.repeat(9)}]`);
  assert.equal(front(`license: mit\n${laughs.join("\n")}`).license, "mit");
});

Deno.test("a certificate is a section with its limits, its text and how to measure it again", () => {
  const certificate: CardFacts["certificate"] = {
    holds: true,
    limits: [
      { quantity: "kl_divergence", bound: 0.05, measured: 0.0441, limit: 0.04691, holds: true },
      { quantity: "perplexity_increase", bound: 0.07, measured: 0.031, limit: 0.052, holds: true },
    ],
    confidence: 0.95,
    tries: 6,
    text: {
      ...{ corpus: "held-out.txt", windows: 90, available: 244, seq_len: 512, tokens: 46080 },
      ...{ seed: 0, sha256: "c0ffee" },
    },
    steering_windows: 30,
  };
  const card = modelCard({ ...FACTS, certificate });
  const section = (text: string) =>
    text.slice(text.indexOf("## Guarantee"), text.indexOf("## Size"));
  assert.equal(
    section(card),
    `## Guarantee

- KL divergence from the original 0.0441, at most 0.04691 nats per token: below 0.05
- increase of perplexity 3.1, at most 5.2 %: below 7

One-sided 95 % confidence, Student's t over 90 windows of 512 tokens, corrected for 6 tries; held-out.txt: 90 of 244 windows of 512 tokens, drawn with seed 0, none of which calibration has seen. The SHA-256 of their tokens is \`c0ffee\`. 30 other windows steered the search for the recipe. \`sluice verify\` can measure it again.

`,
  );
  const broken = { ...certificate, holds: false };
  assert.match(modelCard({ ...FACTS, certificate: broken }), /^## Bounds that it does not keep$/m);
  assert.doesNotMatch(modelCard(FACTS), /Guarantee/);
});
