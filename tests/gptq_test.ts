/** GPTQ's and AWQ's formats: bytes that the real packers wrote, sections, refusals, and hostile checkpoints. */
import assert from "node:assert/strict";
import { referenceBackend } from "../src/backends/reference.ts";
import { CheckpointError, UnsupportedError } from "../src/errors.ts";
import type { Format, PlannedWeight, StoredWeight } from "../src/format.ts";
import { awq } from "../src/formats/awq.ts";
import { gptq } from "../src/formats/gptq.ts";
import type { IntScheme, Scheme, Strategy } from "../src/scheme.ts";
import { presetScheme, schemeKind } from "../src/schemes/mod.ts";
import type { Rows } from "../src/source.ts";
import type { TensorInfo } from "../src/tensor.ts";
import { type GoldenFile, goldenFile, packGolden } from "./golden/file.ts";
import { onEveryBackend } from "./present.ts";

/** What the golden files' metadata says of each weight. */
interface Made {
  readonly bits?: number;
  readonly group_size: number;
  readonly affine?: boolean;
  readonly negative: boolean;
}

const FILES = [
  { format: gptq, file: "gptq.safetensors", rows: { from: 37, to: 45 } },
  { format: awq, file: "awq.safetensors", rows: { from: 40, to: 48 } },
] as const;

function sectionOf(format: Format, { bits = 4, group_size }: Made): Record<string, unknown> {
  return format === gptq
    ? { quant_method: "gptq", bits, group_size, sym: true, desc_act: false }
    : { quant_method: "awq", bits, group_size, zero_point: true, version: "gemm" };
}

/** The weight `name` of a golden file, recognized. */
async function recognized(
  format: Format,
  source: GoldenFile,
  [name, made]: readonly [string, Made],
): Promise<StoredWeight> {
  const tensors = new Map([...source.tensors].filter(([tensor]) => tensor.startsWith(`${name}.`)));
  const found = await format.recognize({
    tensors,
    config: { quantization_config: sectionOf(format, made) },
    read: source.read,
  });
  assert.deepEqual([...found!.keys()], [`${name}.weight`]);
  return found!.get(`${name}.weight`)!;
}

const weightsOf = ({ metadata }: GoldenFile) =>
  Object.entries(JSON.parse(metadata.schemes!) as Record<string, Made>);

/** Pack a stored weight again, in slices of these rows. */
async function packAgain(
  format: Format,
  stored: StoredWeight,
  { source, rows }: { source: GoldenFile; rows: number },
): Promise<Map<string, Uint8Array>> {
  const backend = referenceBackend();
  using scope = backend.scope();
  const [height] = stored.shape as [number];
  const packer = format.packer({ ...stored, dtype: "bf16" }, stored.scheme, scope);
  const pieces = [];
  for (let from = 0; from < height; from += rows) {
    const slice: Rows = { from, to: Math.min(height, from + rows) };
    const quantized = await format.unpack(stored, source.read, { scope, rows: slice });
    pieces.push(...await packer.add(quantized, slice));
  }
  pieces.push(...await packer.finish());
  assert.equal(pieces.length, stored.parts.length);
  return new Map(pieces.map(({ tensor, bytes }) => [tensor, bytes]));
}

for (const { format, file, rows } of FILES) {
  const source = goldenFile(file);

  Deno.test(`what real packers wrote for ${format.name} is recognized, and packing it again by odd slices gives the same bytes`, async () => {
    for (const entry of weightsOf(source)) {
      const stored = await recognized(format, source, entry);
      const step = format.rowStep(stored.scheme, { ...stored, dtype: "bf16" });
      const packed = await packAgain(format, stored, { source, rows: 3 * step });
      for (const [tensor, bytes] of packed) {
        assert.deepEqual(Array.from(bytes), Array.from(source.bytes(tensor)), tensor);
      }
    }
  });

  Deno.test(`rows of ${format.name} weights unpack to what the real dequantizer makes of them, with negative scales too`, async () => {
    const backend = referenceBackend();
    for (const entry of weightsOf(source)) {
      const [name, { negative }] = entry;
      using scope = backend.scope();
      const stored = await recognized(format, source, entry);
      const quantized = await format.unpack(stored, source.read, { scope, rows });
      const [got, scales] = await backend.read(
        schemeKind(stored.scheme).dequantize(quantized, scope),
        quantized.tensors.scale!,
      );
      const want = source.bytes(`dequantized.${name}`);
      assert.deepEqual(
        Array.from(new Float32Array(got!.buffer)),
        Array.from(new Float32Array(want.buffer)),
        name,
      );
      assert.equal(new Float32Array(scales!.buffer).some((scale) => scale < 0), negative, name);
    }
  });

  await onEveryBackend(
    `weights quantized here are, in ${format.name}, what real packers make of the same codes and scales`,
    async (backend) => {
      for (const [name, { bits = 4, group_size: size, affine, negative }] of weightsOf(source)) {
        if (negative) continue;
        const scheme: Scheme = {
          kind: "int",
          bits: bits as IntScheme["bits"],
          grid: affine ? "affine" : "full",
          strategy: size === -1 ? { kind: "channel" } : { kind: "group", size },
          scaleDType: "f16",
          activations: "none",
        };
        const ours = await packGolden(source, {
          key: "weight",
          name: `${name}.weight`,
          scheme,
          format,
          backend,
        });
        for (const [tensor, bytes] of ours) {
          const want = source.bytes(tensor);
          // WGSL's division may be off in the last places: at ties, codes may be others.
          const most = backend.name === "webgpu" ? 1 + want.length / 500 : 0;
          const others = want.reduce((n, byte, i) => n + Number(byte !== bytes[i]), 0);
          assert(others <= most, `${others} of ${want.length} bytes of ${tensor}`);
        }
      }
    },
  );
}

const scheme = (name: string, groupSize: number, scaleDType: "f16" | "bf16" = "f16") =>
  presetScheme(name, { modelDType: "bf16", scaleDType, groupSize }).scheme;

const W4 = scheme("W4A16", 64);
const W8 = scheme("W8A16", 32);

const info = (shape: readonly number[], name = "model.layers.0.up_proj.weight"): TensorInfo => ({
  name,
  dtype: "bf16",
  shape,
});

Deno.test("gptq refuses what its readers do not read, and says what to do", () => {
  const refusal = (scheme: Scheme, weight = info([64, 64])) =>
    String(gptq.supports(scheme, weight));
  assert.equal(refusal(W4), "true");
  assert.equal(refusal(scheme("W3A16", -1), info([32, 96])), "true");
  const restricted = { ...W4, grid: "restricted" } as Scheme;
  assert.equal(refusal(restricted), "true");
  const strategy = (strategy: Strategy) => ({ ...W4, strategy }) as Scheme;
  const cases: [string, RegExp][] = [
    [refusal({ kind: "nf4", block: 64, doubleQuant: true }), /int weights, not nf4/],
    [refusal({ ...W8, activations: "int8" } as Scheme), /activations too; compressed-tensors/],
    [refusal(scheme("W5A16", 64)), /2, 3, 4, 8 bits, not 5; compressed-tensors/],
    [refusal(scheme("W4A16_ASYM", 64)), /less one.* use awq .*, or compressed-tensors/],
    [refusal(strategy({ kind: "tensor" })), /not per tensor; use another group size/],
    [refusal(strategy({ kind: "block", rows: 32, columns: 32 })), /not per block/],
    [refusal(scheme("W4A16", 64, "bf16")), /scales in f16, not bf16/],
    [refusal(scheme("W4A16", 16)), /no groups of 16 in rows of 64; use 32, 64 or -1/],
    [refusal(W4, info([40, 64])), /40×64; leave it alone by a rule, or use compressed-tensors/],
    [refusal(scheme("W4A16", -1), info([64, 72])), /64×72/],
    [refusal(W8, info([64, 32, 1, 1])), /not 4 dimensions; leave it alone/],
    [refusal(W4, info([64, 64], "blocks.0.w1")), /does not end in "\.weight"/],
  ];
  for (const [text, pattern] of cases) assert.match(text, pattern);
});

Deno.test("awq refuses what its readers do not read, and says what to do", () => {
  const refusal = (scheme: Scheme, weight = info([64, 64])) => String(awq.supports(scheme, weight));
  assert.equal(refusal(W4), "true");
  assert.equal(refusal(scheme("W4A16_ASYM", 32), info([24, 96])), "true");
  const cases: [string, RegExp][] = [
    [refusal({ kind: "llm_int8", threshold: 6 }), /int weights, not llm_int8/],
    [refusal({ ...W4, activations: "int8" } as Scheme), /activations too/],
    [refusal(W8), /4 bits, not 8; gptq or compressed-tensors/],
    [refusal(scheme("W4A16", -1)), /groups of 32, 64, 128, not a scale per channel; use/],
    [refusal(scheme("W4A16", 64, "bf16")), /scales in f16, not bf16/],
    [refusal(scheme("W4A16", 256), info([64, 256])), /no groups of 256 in rows of 256; use 32/],
    [refusal(W4, info([12, 64])), /12×64; leave it alone by a rule/],
    [refusal(W4, info([64, 64], "lm_head.weight")), /no quantized output head; leave it alone/],
    [refusal(W4, info([64, 64, 1])), /not 3 dimensions/],
  ];
  for (const [text, pattern] of cases) assert.match(text, pattern);
});

/** Two blocks of three layers and the head; `schemes` by ends of names, W4 for others, null leaves alone. */
function planned(schemes: Readonly<Record<string, Scheme | null>> = {}): PlannedWeight[] {
  const names = [0, 1].flatMap((i) =>
    ["self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"].map((name) => `model.layers.${i}.${name}`)
  );
  return [...names, "lm_head"].map((module) => {
    const found = Object.entries(schemes).find(([end]) => module.endsWith(end));
    const scheme = found ? found[1] : module === "lm_head" ? null : W4;
    return {
      name: `${module}.weight`,
      shape: [64, 64],
      scheme: scheme ?? undefined,
      linear: true,
    };
  });
}

const sectionFor = (format: Format, weights: readonly PlannedWeight[]) =>
  JSON.parse(format.section(weights, "bfloat16")!);

Deno.test("gptq's section has every key its readers want, and says what is left alone and what differs", () => {
  const { meta, ...uniform } = sectionFor(gptq, planned());
  assert.match(meta.quantizer[0], /^sluice:\d+\.\d+\.\d+$/);
  assert.deepEqual(uniform, {
    quant_method: "gptq",
    bits: 4,
    group_size: 64,
    sym: true,
    desc_act: false,
    checkpoint_format: "gptq",
    format: "gptq",
    lm_head: false,
    pack_dtype: "int32",
    true_sequential: true,
    damp_percent: 0.05,
  });
  const left = sectionFor(gptq, planned({ down_proj: null }));
  assert.deepEqual(left.modules_in_block_to_quantize, [["self_attn.q_proj", "mlp.up_proj"]]);
  assert.deepEqual(left.dynamic, { "-:^model\\.layers\\.\\d+\\.mlp\\.down_proj$": {} });
  const one = sectionFor(gptq, planned({ "0.mlp.down_proj": null }));
  assert.deepEqual(one.modules_in_block_to_quantize, [[
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.mlp.up_proj",
    "model.layers.1.self_attn.q_proj",
    "model.layers.1.mlp.up_proj",
    "model.layers.1.mlp.down_proj",
  ]]);
  assert.deepEqual(Object.keys(one.dynamic), ["-:^model\\.layers\\.0\\.mlp\\.down_proj$"]);
  const mixed = sectionFor(gptq, planned({ q_proj: W8, "1.mlp.up_proj": W8, lm_head: W4 }));
  assert.equal(mixed.lm_head, true);
  assert.equal(mixed.modules_in_block_to_quantize, undefined);
  const more = { bits: 8, group_size: 32, sym: true, desc_act: false };
  assert.deepEqual(mixed.dynamic, {
    "+:^model\\.layers\\.\\d+\\.self_attn\\.(?:q_proj|qkv_proj)$": more,
    "+:^model\\.layers\\.1\\.mlp\\.(?:up_proj|gate_up_proj)$": more,
  });
});

Deno.test("a mixed gptq checkpoint is recognized by its own section, layer by layer", async () => {
  const weights = planned({
    q_proj: W8,
    "1.mlp.down_proj": scheme("W3A16", -1),
    "0.mlp.down_proj": null,
  });
  const quantized = weights.filter(({ scheme }) => scheme);
  const parts = quantized.flatMap(({ name, shape, scheme }) =>
    gptq.layout({ name, shape, dtype: "bf16" }, scheme!)
  );
  const found = await gptq.recognize({
    tensors: new Map(parts.map((part) => [part.name, part])),
    config: { quantization_config: sectionFor(gptq, weights) },
    read: () => Promise.reject(new Error("headers tell all of it")),
  });
  assert.deepEqual(
    Object.fromEntries([...found!].map(([name, { scheme }]) => [name, scheme])),
    Object.fromEntries(quantized.map(({ name, scheme }) => [name, scheme])),
  );
});

Deno.test("awq's section names what is left alone in both ways that loaders know; two group sizes are refused", () => {
  assert.deepEqual(sectionFor(awq, planned({ "1.mlp.down_proj": null })), {
    quant_method: "awq",
    bits: 4,
    group_size: 64,
    zero_point: true,
    version: "gemm",
    modules_to_not_convert: ["model.layers.1.mlp.down_proj", "lm_head"],
    dynamic: { "-:^model\\.layers\\.1\\.mlp\\.down_proj$": {} },
  });
  assert.throws(
    () => awq.section(planned({ q_proj: scheme("W4A16", 32) }), "bfloat16"),
    (error) =>
      error instanceof UnsupportedError && /not 32 and 64; gptq and compressed/.test(error.message),
  );
});

Deno.test("loaders of gptq and awq are told apart by widths, groups, mixtures and layers left alone", () => {
  const takes = (format: Format, weights: readonly PlannedWeight[]) =>
    format.loaders(weights.flatMap(({ scheme }) => scheme ?? []), weights)
      .filter(({ takes }) => takes).map(({ name }) => name);
  const all = ["transformers", "GPTQModel", "vLLM", "SGLang", "TGI", "llama.cpp", "ExLlama"];
  assert.deepEqual(takes(gptq, planned()), all);
  const but = (...names: string[]) => all.filter((name) => !names.includes(name));
  assert.deepEqual(takes(gptq, planned({ down_proj: null })), but("TGI"));
  assert.deepEqual(
    takes(gptq, planned({ q_proj: W8 })),
    but("transformers", "TGI", "llama.cpp", "ExLlama"),
  );
  assert.deepEqual(takes(gptq, planned({ lm_head: W4 })), but("transformers", "TGI"));
  const three = scheme("W3A16", 64);
  const low = planned({ _proj: three });
  assert.deepEqual(takes(gptq, low), ["transformers", "GPTQModel", "SGLang"]);
  assert.match(gptq.loaders([three])[3]!.why, /--dtype float16/);
  assert.match(gptq.loaders([scheme("W4A16", -1)])[0]!.why, /on GPU only/);
  assert.deepEqual(takes(gptq, [{ ...planned()[0]!, linear: false }]), []);
  const five = ["transformers", "GPTQModel", "vLLM", "SGLang", "TGI"];
  assert.deepEqual(takes(awq, planned()), five);
  assert.deepEqual(takes(awq, planned({ down_proj: null })), five.slice(0, 4));
  assert.deepEqual(takes(awq, [{ ...planned()[0]!, shape: [40, 64] }]), five.slice(0, 2));
});

/** Recognize and unpack one weight of a golden file after `change` has had its tensors, bytes and section. */
async function readChanged(
  format: Format,
  change: (given: {
    tensors: Map<string, TensorInfo>;
    bytes: Map<string, Uint8Array<ArrayBuffer>>;
    section: Record<string, unknown>;
  }) => void,
): Promise<void> {
  const name = format === gptq ? "int4_g64" : "affine_g64";
  const source = goldenFile(`${format.name}.safetensors`);
  const made = weightsOf(source).find(([key]) => key === name)![1];
  const tensors = new Map([...source.tensors].filter(([tensor]) => tensor.startsWith(`${name}.`)));
  const bytes = new Map([...tensors.keys()].map((tensor) => [tensor, source.bytes(tensor)]));
  const section = sectionOf(format, made);
  change({ tensors, bytes, section });
  const read = (tensor: string) => Promise.resolve(bytes.get(tensor)!);
  const found = await format.recognize({
    tensors,
    config: { quantization_config: section },
    read,
  });
  const backend = referenceBackend();
  using scope = backend.scope();
  for (const stored of found!.values()) await format.unpack(stored, read, { scope });
}

Deno.test("a gptq checkpoint that Sluice does not read, or that is broken, is refused by name", async () => {
  await readChanged(gptq, () => {});
  const unsupported: [RegExp, Parameters<typeof readChanged>[1]][] = [
    [/g_idx".*order of activations/, ({ bytes }) => bytes.get("int4_g64.g_idx")!.reverse()],
    [/g_idx"/, ({ bytes }) => bytes.get("int4_g64.g_idx")!.fill(0xff)],
    [/qzeros": its zero points are not 8/, ({ bytes }) => bytes.get("int4_g64.qzeros")!.fill(0x88)],
    [/qzeros"/, ({ bytes }) => bytes.get("int4_g64.qzeros")![63] = 0x67],
    [/order of activations \(desc_act\)/, ({ section }) => section.desc_act = true],
    [/sym: false/, ({ section }) => section.sym = false],
    [/5 bits/, ({ section }) => section.bits = 5],
    [/"4" bits/, ({ section }) => section.bits = "4"],
    [/"gptq_v2", not "gptq"/, ({ section }) => section.checkpoint_format = "gptq_v2"],
    [/"marlin"/, ({ section }) => section.format = "marlin"],
    [/sym: false/, ({ section }) => section.dynamic = { "int4.*": { sym: false } }],
  ];
  for (const [says, change] of unsupported) {
    await assert.rejects(readChanged(gptq, change), (error) => {
      assert(error instanceof UnsupportedError, String(error));
      assert.match(error.message, says);
      return true;
    });
  }
  const broken: [RegExp, Parameters<typeof readChanged>[1]][] = [
    [/scales" must be f16\[2,64\], it is missing/, ({ tensors }) => {
      tensors.delete("int4_g64.scales");
    }],
    [/g_idx" must be i32\[128\], it is missing/, ({ tensors }) => {
      tensors.delete("int4_g64.g_idx");
    }],
    [/qzeros" must be/, ({ tensors }) => tensors.delete("int4_g64.qzeros")],
    [/qweight" must be i32\[16,16\], it is i32\[64,16\]/, ({ tensors }) => {
      tensors.set("int4_g64.qweight", { name: "int4_g64.qweight", dtype: "i32", shape: [64, 16] });
      tensors.set("int4_g64.scales", { name: "int4_g64.scales", dtype: "f16", shape: [2, 64] });
    }],
    [/scales are i32/, ({ tensors }) => {
      tensors.set("int4_g64.scales", { name: "int4_g64.scales", dtype: "i32", shape: [2, 64] });
    }],
    [/qweight" must be/, ({ section }) => section.bits = 8],
    [/qzeros" must be i32\[4,8\]/, ({ section }) => section.group_size = 32],
    [/group_size is 0/, ({ section }) => section.group_size = 0],
    [/group_size is undefined/, ({ section }) => delete section.group_size],
    [/expected 4096 bytes/, ({ bytes }) => bytes.set("int4_g64.qweight", new Uint8Array(4000))],
    [/expected 512 bytes/, ({ bytes }) => bytes.set("int4_g64.g_idx", new Uint8Array(8))],
    [/not an object of patterns/, ({ section }) => section.dynamic = "int4"],
    [/no object for/, ({ section }) => section.dynamic = { "+:int4": 8 }],
    [/not a regular expression/, ({ section }) => section.dynamic = { "+:(": {} }],
  ];
  for (const [says, change] of broken) {
    await assert.rejects(readChanged(gptq, change), (error) => {
      assert(error instanceof CheckpointError, String(error));
      assert.match(error.message, says);
      return true;
    });
  }
});

Deno.test("an awq checkpoint that Sluice does not read, or that is broken, is refused by name", async () => {
  await readChanged(awq, ({ section }) => section.version = "GEMM");
  const qweight = "affine_g64.qweight";
  const unsupported: [RegExp, Parameters<typeof readChanged>[1]][] = [
    [/8 bits/, ({ section }) => section.bits = 8],
    [/"gemv"/, ({ section }) => section.version = "gemv"],
    [/zero_point: false/, ({ section }) => section.zero_point = false],
    [/has 3 columns/, ({ tensors }) => {
      tensors.set(qweight, { name: qweight, dtype: "i32", shape: [3, 8] });
    }],
  ];
  for (const [says, change] of unsupported) {
    await assert.rejects(readChanged(awq, change), (error) => {
      assert(error instanceof UnsupportedError, String(error));
      assert.match(error.message, says);
      return true;
    });
  }
  const broken: [RegExp, Parameters<typeof readChanged>[1]][] = [
    [/qzeros" must be i32\[2,8\], it is missing/, ({ tensors }) => {
      tensors.delete("affine_g64.qzeros");
    }],
    [/scales" must be f16\[2,64\], it is missing/, ({ tensors }) => {
      tensors.delete("affine_g64.scales");
    }],
    [/qweight" must be i32\[128,8\], it is u8/, ({ tensors }) => {
      tensors.set(qweight, { name: qweight, dtype: "u8", shape: [128, 8] });
    }],
    [/qzeros" must be i32\[4,8\]/, ({ section }) => section.group_size = 32],
    [/group_size is "64"/, ({ section }) => section.group_size = "64"],
    [/expected 4096 bytes/, ({ bytes }) => bytes.set(qweight, new Uint8Array(1))],
  ];
  for (const [says, change] of broken) {
    await assert.rejects(readChanged(awq, change), (error) => {
      assert(error instanceof CheckpointError, String(error));
      assert.match(error.message, says);
      return true;
    });
  }
});

Deno.test("slices that cut awq's words are refused, and scales that f16 has no room for", async () => {
  const backend = referenceBackend();
  using scope = backend.scope();
  const weight = scope.alloc("f32", [8, 64]);
  const values = new Float32Array(512).fill(1e30);
  backend.write(weight, new Uint8Array(values.buffer));
  for (const format of [gptq, awq]) {
    const quantized = schemeKind(W4).quantize(W4, weight, { scope, search: "minmax" });
    const packer = format.packer(info([64, 64]), W4, scope);
    await assert.rejects(
      packer.add(quantized, { from: 0, to: 8 }),
      (error) => error instanceof CheckpointError && /a scale in f16/.test(error.message),
    );
    const cut = packer.add(quantized, { from: 4, to: 12 });
    await assert.rejects(cut, format === awq ? RangeError : CheckpointError);
  }
});
