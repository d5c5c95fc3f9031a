/**
 * Formats: the conformance suite, bytes that the real libraries wrote, sections of config.json, and
 * refusals.
 */
import assert from "node:assert/strict";
import { referenceBackend } from "../src/backends/reference.ts";
import { CheckpointError, UnsupportedError } from "../src/errors.ts";
import type { Content, Format, PlannedWeight } from "../src/format.ts";
import { bitsandbytes } from "../src/formats/bitsandbytes.ts";
import { compressedTensors } from "../src/formats/compressed_tensors.ts";
import { pythonFloat, spliceConfig } from "../src/formats/config_json.ts";
import { FORMATS } from "../src/formats/mod.ts";
import { plain } from "../src/formats/plain.ts";
import { bf16ToF32 } from "../src/number.ts";
import { readQuantState } from "../src/formats/bitsandbytes/quant_state.ts";
import type { Scheme } from "../src/scheme.ts";
import { presetScheme, schemeKind } from "../src/schemes/mod.ts";
import type { TensorInfo } from "../src/tensor.ts";
import { caseLabel, checkFormat, formatCases } from "./conformance/format.ts";
import { type GoldenFile, goldenFile, packGolden } from "./golden/file.ts";
import { onEveryBackend } from "./present.ts";

for (const format of FORMATS) {
  await onEveryBackend(
    `${format.name} gives every byte once, by slices as at once, and unpacks what it packed`,
    async (backend) => {
      // A software GPU runs what a real one does, so it gets a seventh of the cases.
      const cases = formatCases(format, backend.software ? 7 : 1);
      let held = 0;
      // Many at once, so that a GPU's waits are shared.
      for (let from = 0; from < cases.length; from += 32) {
        const verdicts = cases.slice(from, from + 32).map(async (case_) => {
          try {
            return await checkFormat(format, case_, backend);
          } catch (cause) {
            throw new Error(`${caseLabel(case_)}: ${(cause as Error).message}`, { cause });
          }
        });
        held += (await Promise.all(verdicts)).filter((verdict) => verdict).length;
      }
      assert(held > 0 || backend.software, "no case was held");
    },
  );
}

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

for (
  const [key, scheme] of Object.entries(
    {
      nested: { kind: "nf4", block: 64, doubleQuant: true },
      ragged: { kind: "nf4", block: 32, doubleQuant: false },
      fp4: { kind: "fp4", block: 128, doubleQuant: false },
      nested_fp4: { kind: "fp4", block: 64, doubleQuant: true },
      int8: { kind: "llm_int8", threshold: 6 },
    } satisfies Record<string, Scheme>,
  )
) {
  await onEveryBackend(
    `bitsandbytes' own bytes for "${key}" are ours, tensor by tensor`,
    async (backend) => {
      const source = goldenFile("bitsandbytes.safetensors");
      const name = `${key}.weight`;
      const ours = await packGolden(source, { key, name, scheme, format: bitsandbytes, backend });
      const theirs = [...source.tensors.keys()].filter((tensor) => tensor.startsWith(`${key}.`));
      assert.deepEqual([...ours.keys()].sort(), theirs.sort());
      for (const tensor of theirs) {
        const [got, want] = [ours.get(tensor)!, source.bytes(tensor)];
        if (tensor.includes(".quant_state.")) {
          assert.equal(text(got).trimEnd(), text(want));
        } else if (backend.name === "webgpu" && source.tensors.get(tensor)!.dtype !== "f32") {
          // WGSL's division may be off in the last places: at ties, codes may be others.
          const others = want.reduce((count, byte, i) => count + Number(byte !== got[i]), 0);
          assert(
            others <= 1 + want.length / 1000,
            `${others} of ${want.length} bytes of ${tensor}`,
          );
        } else {
          assert.deepEqual(Array.from(got), Array.from(want), tensor);
        }
      }
    },
  );
}

Deno.test("a file that bitsandbytes wrote is recognized, and unpacks to what bitsandbytes dequantizes", async () => {
  const source = goldenFile("bitsandbytes.safetensors");
  const section = { quant_method: "bitsandbytes", load_in_4bit: true, llm_int8_threshold: 6 };
  const found = await bitsandbytes.recognize({
    tensors: source.tensors,
    config: { quantization_config: section },
    read: source.read,
  });
  assert.deepEqual([...found!.keys()].sort(), [
    "fp4.weight",
    "int8.weight",
    "nested.weight",
    "nested_fp4.weight",
    "ragged.weight",
  ]);
  assert.deepEqual(found!.get("ragged.weight")!.scheme, {
    kind: "nf4",
    block: 32,
    doubleQuant: false,
  });
  assert.deepEqual(found!.get("ragged.weight")!.shape, [9, 37]);
  const backend = referenceBackend();
  using scope = backend.scope();
  for (const [name, stored] of found!) {
    // Of "nested", rows whose nested statistics are in the second block of 256.
    const rows = name === "nested.weight" ? { rows: { from: 128, to: 136 } } : {};
    const quantized = await bitsandbytes.unpack(stored, source.read, { scope, ...rows });
    const values = schemeKind(stored.scheme).dequantize(quantized, scope);
    const [got] = await backend.read(values);
    const key = `dequantized.${name.slice(0, -".weight".length)}`;
    const want = new Float32Array(source.bytes(key).buffer); // the last 8 rows
    new Float32Array(got!.buffer).subarray(-want.length).forEach((value, i) => {
      // int8: q·(absmax·(1/127)) against the library's (q·absmax)·(1/127); the others are equal.
      const slack = stored.scheme.kind === "llm_int8" ? Math.abs(want[i]!) * 2 ** -22 : 0;
      assert(Math.abs(value - want[i]!) <= slack, `${name}[${i}] is ${value}, not ${want[i]}`);
    });
  }
});

interface GoldenScheme {
  readonly format: string;
  readonly targets: readonly string[];
}

Deno.test("a file that compressed-tensors wrote is recognized, and packing it again gives the same bytes", async () => {
  const source = goldenFile("compressed_tensors.safetensors");
  const schemes: Record<string, GoldenScheme> = JSON.parse(source.metadata.schemes!);
  const groups = Object.entries(schemes).map(([name, { format, ...group }]) => [name, {
    ...group,
    format,
    targets: [name],
  }]);
  const config = {
    quantization_config: {
      quant_method: "compressed-tensors",
      format: "mixed-precision",
      config_groups: Object.fromEntries(groups),
    },
  };
  const found = await compressedTensors.recognize({
    tensors: source.tensors,
    config,
    read: source.read,
  });
  assert.deepEqual(
    [...found!.keys()].sort(),
    Object.keys(schemes).map((name) => `${name}.weight`).sort(),
  );
  const backend = referenceBackend();
  for (const [name, stored] of found!) {
    using scope = backend.scope();
    const quantized = await compressedTensors.unpack(stored, source.read, { scope });
    const weight: TensorInfo = { name, dtype: "bf16", shape: stored.shape };
    const packer = compressedTensors.packer(weight, stored.scheme, scope);
    const pieces = [
      ...await packer.add(quantized, { from: 0, to: stored.shape[0]! }),
      ...await packer.finish(),
    ];
    assert.equal(pieces.length, stored.parts.length);
    for (const { tensor, bytes } of pieces) {
      assert.deepEqual(Array.from(bytes), Array.from(source.bytes(tensor)), tensor);
    }
  }
});

/**
 * Affine codes: the library rounds w/s + zero, we (as GPTQ does) w/s before adding zero, which is
 * another code when w/s is half way between two and zero is odd. So codes may differ, but then both
 * stand for values as far from the weight.
 */
async function checkTies(
  source: GoldenFile,
  { key, scheme, ours }: {
    readonly key: string;
    readonly scheme: Scheme;
    readonly ours: Uint8Array;
  },
): Promise<void> {
  const backend = referenceBackend();
  using scope = backend.scope();
  const shape = source.tensors.get("original.weight")!.shape;
  const name = `${key}.weight`;
  const parts = compressedTensors.layout({ name, dtype: "bf16", shape }, scheme);
  const unpack = async (codes: Uint8Array) => {
    const quantized = await compressedTensors.unpack(
      { name, shape, scheme, parts },
      (part, rows) =>
        part.endsWith("_packed") ? Promise.resolve(codes.slice()) : source.read(part, rows),
      { scope },
    );
    const [bytes] = await backend.read(schemeKind(scheme).dequantize(quantized, scope));
    return new Float32Array(bytes!.buffer);
  };
  const a = await unpack(ours);
  const b = await unpack(source.bytes(`${key}.weight_packed`));
  const halves = new Uint16Array(source.bytes("original.weight").buffer);
  const weight = Float32Array.from(halves, bf16ToF32);
  let ties = 0;
  a.forEach((value, i) => {
    if (value === b[i]) return;
    ties++;
    const [mine, theirs] = [Math.abs(value - weight[i]!), Math.abs(b[i]! - weight[i]!)];
    assert(Math.abs(mine - theirs) < 1e-5 * mine, `${name}[${i}]: ${mine} is not ${theirs} away`);
  });
  assert(ties < a.length / 100, `${ties} ties of ${a.length}`);
}

Deno.test("int and fp8 weights quantized here are what compressed-tensors' compressors make of them, byte for byte but for ties of affine codes", async () => {
  const source = goldenFile("compressed_tensors.safetensors");
  const int = { kind: "int", grid: "full", scaleDType: "bf16", activations: "none" } as const;
  const fp8 = { kind: "fp8", scaleDType: "bf16" } as const;
  const channel = { kind: "channel" } as const;
  const block = { kind: "block", rows: 8, columns: 64 } as const;
  const schemes: Record<string, Scheme> = {
    int4_g64: { ...int, bits: 4, strategy: { kind: "group", size: 64 } },
    int4_g32_asym: { ...int, bits: 4, grid: "affine", strategy: { kind: "group", size: 32 } },
    int3_g96: { ...int, bits: 3, strategy: { kind: "group", size: 96 } },
    int3_asym: { ...int, bits: 3, grid: "affine", strategy: channel },
    int8_channel: { ...int, bits: 8, strategy: channel },
    int4_tensor_asym: { ...int, bits: 4, grid: "affine", strategy: { kind: "tensor" } },
    int4_block: { ...int, bits: 4, strategy: block },
    w8a8: { ...int, bits: 8, strategy: channel, activations: "int8" },
    w8a8_static: { ...int, bits: 8, strategy: channel, activations: "int8-static" },
    fp8: { ...fp8, strategy: channel, activations: "fp8" },
    fp8_static: { ...fp8, strategy: { kind: "tensor" }, activations: "fp8-static" },
    fp8_block: { ...fp8, strategy: block, activations: "none" },
  };
  assert.deepEqual(
    Object.keys(schemes).sort(),
    Object.keys(JSON.parse(source.metadata.schemes!)).sort(),
  );
  const backend = referenceBackend();
  for (const [key, scheme] of Object.entries(schemes)) {
    const name = `${key}.weight`;
    const ours = await packGolden(source, {
      key: "weight",
      name,
      scheme,
      format: compressedTensors,
      backend,
      inputScale: key === "fp8_static" ? 2 ** -7 : 0.03125 * 1.5,
    });
    for (const [tensor, bytes] of ours) {
      const isAffineCodes = key.endsWith("_asym") && tensor.endsWith(".weight_packed");
      if (isAffineCodes) await checkTies(source, { key, scheme, ours: bytes });
      else assert.deepEqual(Array.from(bytes), Array.from(source.bytes(tensor)), tensor);
    }
  }
});

const W4 = presetScheme("W4A16", { modelDType: "bf16", groupSize: 32 }).scheme;
const W8 = presetScheme("W8A16", { modelDType: "bf16" }).scheme;
const W8A8 = presetScheme("W8A8", { modelDType: "bf16" }).scheme;
const FP8 = presetScheme("FP8_DYNAMIC", { modelDType: "bf16" }).scheme;
const NF4 = presetScheme("NF4", { modelDType: "bf16" }).scheme;
const INT8 = presetScheme("LLM_INT8", { modelDType: "bf16" }).scheme;

const planned = (name: string, scheme?: Scheme, linear = true): PlannedWeight => ({
  name: `${name}.weight`,
  shape: [64, 64],
  scheme,
  linear,
});

/** A checkpoint of these weights, of an architecture that all loaders know. */
const content = (
  weights: readonly PlannedWeight[],
  config: Content["config"] = { model_type: "llama", architectures: ["LlamaForCausalLM"] },
): Content => ({ weights, config, dtype: "bfloat16" });

Deno.test("a section of one scheme targets Linear and ignores every linear left alone, the tied head too", () => {
  const weights = [
    planned("model.embed_tokens", undefined, false),
    planned("model.layers.0.q_proj", W4),
    planned("model.layers.0.o_proj"),
  ];
  assert.deepEqual(JSON.parse(compressedTensors.section(content(weights))!), {
    quant_method: "compressed-tensors",
    format: "pack-quantized",
    quantization_status: "compressed",
    config_groups: {
      group_0: {
        targets: ["Linear"],
        weights: {
          num_bits: 4,
          type: "int",
          symmetric: true,
          strategy: "group",
          group_size: 32,
          dynamic: false,
        },
        input_activations: null,
        output_activations: null,
      },
    },
    ignore: ["model.layers.0.o_proj", "lm_head"],
    kv_cache_scheme: null,
    global_compression_ratio: null,
  });
});

Deno.test("two schemes of one layout share its format; two layouts are mixed precision, with disjoint targets", () => {
  const two = [planned("a", W4), planned("b", W8), planned("c", W4)];
  const same = JSON.parse(compressedTensors.section(content(two))!);
  assert.equal(same.format, "pack-quantized");
  assert.deepEqual(same.config_groups.group_0.targets, ["a", "c"]);
  assert.deepEqual(same.config_groups.group_1.targets, ["b"]);
  assert.equal("format" in same.config_groups.group_0, false);
  const mixed = JSON.parse(
    compressedTensors.section(
      content([planned("a", W8A8), planned("b", FP8), planned("lm_head", W4)]),
    )!,
  );
  assert.equal(mixed.format, "mixed-precision");
  assert.deepEqual(
    Object.values(mixed.config_groups).map((group) => (group as { format: string }).format),
    ["int-quantized", "float-quantized", "pack-quantized"],
  );
  assert.deepEqual(mixed.ignore, []);
});

Deno.test("a section says of activations whether each token has a scale or the checkpoint does", () => {
  for (
    const [name, type] of [["W8A8", "int"], ["FP8_DYNAMIC", "float"]] as const
  ) {
    const args = (activations: "dynamic" | "static") => {
      const { scheme } = presetScheme(name, { modelDType: "bf16", activations });
      const { config_groups } = JSON.parse(
        compressedTensors.section(content([planned("a", scheme)]))!,
      );
      return config_groups.group_0.input_activations;
    };
    const both = { num_bits: 8, type, symmetric: true };
    assert.deepEqual(args("dynamic"), { ...both, strategy: "token", dynamic: true });
    assert.deepEqual(args("static"), { ...both, strategy: "tensor", dynamic: false });
  }
});

Deno.test("a quantized convolution or embedding is targeted by name, not as Linear", () => {
  const conv = { ...planned("conv1", W8), shape: [8, 3, 3, 3] };
  const section = JSON.parse(compressedTensors.section(content([conv]))!);
  assert.deepEqual(section.config_groups.group_0.targets, ["conv1"]);
  const embedding = planned("model.embed_tokens", W8, false);
  const other = JSON.parse(compressedTensors.section(content([embedding]))!);
  assert.deepEqual(other.config_groups.group_0.targets, ["model.embed_tokens"]);
});

Deno.test("bitsandbytes' section keeps 6.0 a float and names the head and every linear left alone", () => {
  const weights = [planned("q", NF4), planned("o"), planned("embed", undefined, false)];
  const text = bitsandbytes.section(content(weights))!;
  assert.match(text, /"llm_int8_threshold":6\.0,/);
  const section = JSON.parse(text);
  assert.deepEqual(section.llm_int8_skip_modules, ["o", "lm_head"]);
  assert.equal(section.load_in_4bit, true);
  assert.equal(section.bnb_4bit_quant_type, "nf4");
  assert.equal(section.bnb_4bit_use_double_quant, true);
  assert.equal(section.bnb_4bit_compute_dtype, "bfloat16");
  const eight = bitsandbytes.section(content([planned("q", { kind: "llm_int8", threshold: 0 })]))!;
  assert.match(eight, /"load_in_4bit":false,"load_in_8bit":true.*"llm_int8_threshold":0\.0,/);
});

Deno.test("bitsandbytes refuses one checkpoint of 4-bit and 8-bit weights", () => {
  assert.throws(
    () => bitsandbytes.section(content([planned("a", NF4), planned("b", INT8)])),
    (error) =>
      error instanceof UnsupportedError && /nf4 with double.* and LLM\.int8/.test(error.message),
  );
});

Deno.test("nothing quantized means no section", () => {
  for (const format of FORMATS) assert.equal(format.section(content([planned("a")])), undefined);
});

Deno.test("spliceConfig() keeps the order of keys and the spelling of numbers", () => {
  const before =
    `{"rms_norm_eps": 1.0, "hidden_size": 256, "rope_theta": 1e-05, "torch_dtype": "float32",
    "vision_config": {"dtype": "float32", "scale": 2.50}, "quantization_config": {"quant_method": "gptq"}}`;
  const after = spliceConfig(before, `{"quant_method":"x","t":6.0}`, { dtype: "bf16" });
  assert.equal(
    after,
    `{
  "rms_norm_eps": 1.0,
  "hidden_size": 256,
  "rope_theta": 1e-05,
  "torch_dtype": "bfloat16",
  "vision_config": {
    "dtype": "bfloat16",
    "scale": 2.50
  },
  "quantization_config": {
    "quant_method": "x",
    "t": 6.0
  }
}
`,
  );
});

Deno.test("spliceConfig() writes the section alone without a config, and adds torch_dtype where no dtype stands", () => {
  assert.deepEqual(JSON.parse(spliceConfig(undefined, `{"a":1}`)), {
    quantization_config: { a: 1 },
  });
  assert.deepEqual(JSON.parse(spliceConfig(`{"b":2}`, undefined, { dtype: "f16" })), {
    b: 2,
    torch_dtype: "float16",
  });
});

Deno.test("spliceConfig() refuses a config that is no JSON object", () => {
  for (const text of ["", "[1]", `{"a": NaN}`, "null", "{"]) {
    assert.throws(() => spliceConfig(text, undefined), CheckpointError, text);
  }
});

Deno.test("floats are spelled as Python spells them", () => {
  const cases: [number, string][] = [
    [6, "6.0"],
    [0, "0.0"],
    [-0, "-0.0"],
    [0.0001, "0.0001"],
    [0.00001, "1e-05"],
    [1.5e-7, "1.5e-07"],
    [1e16, "1e+16"],
    [123456789012345680, "1.2345678901234568e+17"],
    [1e15, "1000000000000000.0"],
    [Math.fround(0.0712), String(Math.fround(0.0712))],
  ];
  for (const [value, text] of cases) assert.equal(pythonFloat(value), text);
});

Deno.test("packing a weight that holds NaN or infinity names it", async () => {
  const cases: [Format, Scheme][] = [
    [compressedTensors, W8],
    [compressedTensors, FP8],
    [bitsandbytes, NF4],
    [bitsandbytes, INT8],
    [plain, { kind: "cast", dtype: "f16" }],
  ];
  const backend = referenceBackend();
  for (const bad of [NaN, Infinity, -Infinity]) {
    for (const [format, scheme] of cases) {
      if (Number.isNaN(bad) && scheme.kind === "cast") continue; // a NaN is copied as it is
      using scope = backend.scope();
      const weight = scope.alloc("f32", [4, 64]);
      const values = new Float32Array(256).fill(0.5);
      values[70] = bad;
      backend.write(weight, new Uint8Array(values.buffer));
      const quantized = await schemeKind(scheme).quantize(scheme, weight, {
        scope,
        search: "minmax",
      });
      const packer = format.packer(
        { name: "up.weight", dtype: "f32", shape: [4, 64] },
        scheme,
        scope,
      );
      await assert.rejects(
        packer.add(quantized, { from: 0, to: 4 }),
        (error) => error instanceof CheckpointError && error.tensor === "up.weight",
        `${format.name} ${scheme.kind} ${bad}`,
      );
    }
  }
});

Deno.test("a cast to f16 refuses values that have no room in it", async () => {
  const backend = referenceBackend();
  using scope = backend.scope();
  const weight = scope.alloc("f32", [1, 2]);
  backend.write(weight, new Uint8Array(Float32Array.of(1, 70000).buffer));
  const scheme = { kind: "cast", dtype: "f16" } as const;
  const quantized = await schemeKind(scheme).quantize(scheme, weight, { scope, search: "minmax" });
  const packer = plain.packer({ name: "w", dtype: "f32", shape: [1, 2] }, scheme, scope);
  await assert.rejects(packer.add(quantized, { from: 0, to: 1 }), /past 65504/);
});

Deno.test("slices that cut a word of zero points or a block are refused", async () => {
  const backend = referenceBackend();
  using scope = backend.scope();
  const affine = presetScheme("W4A16_ASYM", { modelDType: "f32", groupSize: 32 }).scheme;
  for (const [format, scheme] of [[compressedTensors, affine], [bitsandbytes, NF4]] as const) {
    const weight = scope.alloc("f32", [3, 32]);
    const quantized = await schemeKind(scheme).quantize(scheme, weight, {
      scope,
      search: "minmax",
    });
    const info: TensorInfo = { name: "a.weight", dtype: "f32", shape: [16, 32] };
    const packer = format.packer(info, scheme, scope);
    await assert.rejects(packer.add(quantized, { from: 0, to: 3 }), RangeError);
  }
});

Deno.test("a weight that is no module's, or is not of floats, is refused with its name", () => {
  for (const [format, scheme] of [[compressedTensors, W8], [bitsandbytes, NF4]] as const) {
    const refusal = format.supports(scheme, { name: "blocks.0.w1", dtype: "bf16", shape: [4, 4] });
    assert.match(String(refusal), /"blocks\.0\.w1" does not end in "\.weight"/);
    const ints = format.supports(scheme, { name: "a.weight", dtype: "i8", shape: [4, 4] });
    assert.match(String(ints), /i8/);
  }
  const block = presetScheme("W4A16", {
    modelDType: "bf16",
    strategy: { kind: "block", rows: 64, columns: 64 },
  }).scheme;
  const ragged = compressedTensors.supports(block, {
    name: "a.weight",
    dtype: "bf16",
    shape: [100, 64],
  });
  assert.match(String(ragged), /do not tile 100×64/);
});

/** The loaders that a format says yes of. */
const openers = (format: Format, ...args: Parameters<typeof content>) =>
  format.loaders(content(...args)).filter(({ opens }) => opens === "yes").map(({ name }) => name);

Deno.test("loaders are told apart by bits, group size and dimensions", () => {
  const takes = (...schemes: Scheme[]) =>
    openers(compressedTensors, schemes.map((scheme, i) => planned(`a${i}`, scheme)));
  assert.deepEqual(takes(W4), ["transformers", "vLLM", "SGLang", "TGI", "llama.cpp"]);
  assert.deepEqual(takes(presetScheme("W3A16", { modelDType: "bf16" }).scheme), [
    "transformers",
    "llama.cpp",
  ]);
  assert.deepEqual(takes(presetScheme("W4A16", { modelDType: "bf16", groupSize: 48 }).scheme), [
    "transformers",
    "llama.cpp",
  ]);
  const why = (scheme: Scheme, loader: number) =>
    compressedTensors.loaders(content([planned("a", scheme)]))[loader]!.why;
  const fixed = presetScheme("W8A8", { modelDType: "bf16", activations: "static" }).scheme;
  assert.deepEqual(takes(fixed), ["transformers", "vLLM", "SGLang", "TGI"]);
  assert.match(why(fixed, 3), /token by token all the same/);
  const conv = { ...planned("conv", W8), shape: [8, 3, 3, 3], linear: false };
  const verdicts = compressedTensors.loaders(content([conv]));
  assert(verdicts.every(({ opens, why }) => opens === "no" && /4 dimensions/.test(why)));
  const affine = presetScheme("W4A16_ASYM", { modelDType: "bf16" }).scheme;
  assert.match(why(affine, 0), /dequantize=True/);
  // Its zero points are one row of words.
  const shallow = compressedTensors.loaders(
    content([{ ...planned("a", affine), shape: [8, 128] }]),
  );
  assert.equal(shallow[0]!.opens, "no");
  assert.match(shallow[0]!.why, /zero points of "a\.weight", which has 8 outputs/);
  // Falcon's layers are asked for weights before packed ones are there; those of whole bytes are
  // there.
  const falcon = { model_type: "falcon", architectures: ["FalconForCausalLM"] };
  const packed = (scheme: Scheme) =>
    compressedTensors.loaders(content([planned("a", scheme)], falcon))[0]!;
  assert.match(packed(W4).why, /dequantize=True/);
  assert.doesNotMatch(packed(W8A8).why, /dequantize=True/);
  assert.equal(bitsandbytes.loaders(content([planned("a", NF4)], falcon))[0]!.opens, "no");
  assert.deepEqual(takes(W8A8, FP8), ["transformers", "vLLM"]);
  for (const verdict of FORMATS.flatMap((format) => format.loaders(content([planned("a", W4)])))) {
    assert(verdict.why.length > 0, verdict.name);
  }
});

Deno.test("loaders of NF4 are warned of rows that end inside a block, and of few outputs", () => {
  const why = (rows: number, columns: number) =>
    bitsandbytes.loaders(content([{ ...planned("a", NF4), shape: [rows, columns] }]))[0]!.why;
  assert.match(why(32, 96), /on GPU only: blocks cross the rows of "a\.weight"/);
  assert.match(why(8, 128), /on GPU only: "a\.weight" has 8 outputs/);
  assert.match(why(32, 128), /GPU and CPU/);
});

Deno.test("a checkpoint whose parts contradict its section is named as broken", async () => {
  const section = JSON.parse(compressedTensors.section(content([planned("a", W4)]))!);
  const scheme = W4;
  const right = compressedTensors.layout(
    { name: "a.weight", dtype: "bf16", shape: [64, 64] },
    scheme,
  );
  const sizes = new Uint8Array(BigInt64Array.of(64n, 64n).buffer);
  const recognize = (tensors: readonly TensorInfo[], quantization_config: unknown, bytes = sizes) =>
    compressedTensors.recognize({
      tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])),
      config: { quantization_config },
      read: () => Promise.resolve(bytes),
    });
  assert.equal((await recognize(right, section))!.size, 1);
  const wrong: [string, Promise<unknown>][] = [
    ["a part is missing", recognize(right.slice(1), section)],
    ["another dtype", recognize(right.map((part) => ({ ...part, dtype: "f32" })), section)],
    ["another shape", recognize(right, section, new Uint8Array(BigInt64Array.of(64n, 96n).buffer))],
    ["a shape of zeros", recognize(right, section, new Uint8Array(16))],
    [
      "a huge shape",
      recognize(right, section, new Uint8Array(BigInt64Array.of(2n ** 60n, 64n).buffer)),
    ],
    ["a short read", recognize(right, section, new Uint8Array(3))],
    ["no groups", recognize(right, { ...section, config_groups: 3 })],
    ["no targets", recognize(right, { ...section, config_groups: { group_0: {} } })],
    [
      "a bad pattern",
      recognize(right, {
        ...section,
        config_groups: { group_0: { ...section.config_groups.group_0, targets: ["re:("] } },
      }),
    ],
    [
      "no group for it",
      recognize(right, {
        ...section,
        config_groups: { group_0: { ...section.config_groups.group_0, targets: ["model.other"] } },
      }),
    ],
  ];
  for (const [what, promise] of wrong) await assert.rejects(promise, CheckpointError, what);
  const { group_0 } = section.config_groups;
  const fixed = { num_bits: 8, type: "int", strategy: "tensor", dynamic: false };
  const unreadable = [
    { ...group_0, weights: { ...group_0.weights, actorder: "group" } },
    { ...group_0, weights: { ...group_0.weights, num_bits: 16 } },
    ...[{ symmetric: false }, { dynamic: true }, { strategy: "token" }, { num_bits: 4 }].map((
      other,
    ) => ({
      ...group_0,
      input_activations: { ...fixed, ...other },
    })),
  ];
  for (const group of unreadable) {
    await assert.rejects(
      recognize(right, { ...section, config_groups: { group } }),
      UnsupportedError,
      JSON.stringify(group),
    );
  }
});

Deno.test("a bitsandbytes checkpoint whose parts contradict each other is named as broken", async () => {
  const source = goldenFile("bitsandbytes.safetensors");
  const kept = (keys: string[]) =>
    new Map([...source.tensors].filter(([name]) => keys.some((key) => name.startsWith(key))));
  const section = { quant_method: "bitsandbytes", load_in_8bit: true };
  const recognize = (
    tensors: ReadonlyMap<string, TensorInfo>,
    quantization_config: unknown = section,
    read = source.read,
  ) => bitsandbytes.recognize({ tensors, config: { quantization_config }, read });
  assert.equal((await recognize(kept(["nested.", "int8."])))!.size, 2);
  assert.equal(await recognize(kept(["nested."]), { quant_method: "gptq" }), undefined);
  const without = kept(["nested."]);
  without.delete("nested.weight.nested_absmax");
  const big = kept(["nested."]);
  const state = "nested.weight.quant_state.bitsandbytes__nf4";
  big.set(state, { name: state, dtype: "u8", shape: [2 ** 40] });
  const short = kept(["int8."]);
  short.set("int8.SCB", { name: "int8.SCB", dtype: "f32", shape: [23] });
  const wrong = [
    recognize(without),
    recognize(big),
    recognize(short),
    recognize(kept(["int8."]), { ...section, llm_int8_threshold: "6" }),
    recognize(kept(["int8."]), { ...section, llm_int8_threshold: -1 }),
  ];
  for (const promise of wrong) await assert.rejects(promise, CheckpointError);
  await assert.rejects(
    recognize(kept(["int8."]), section, () => Promise.resolve(Uint8Array.of(2))),
    UnsupportedError,
  );
});

Deno.test("a quant_state that is not one is refused", () => {
  const good = `{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [4, 64]}`;
  const encode = (text: string) => new TextEncoder().encode(text);
  assert.equal(readQuantState("q", encode(good)).block, 64);
  const bad = [
    "",
    "null",
    "{}",
    good.replace("nf4", "nf5"),
    good.replace("64,", "0,"),
    good.replace("[4, 64]", "[4, -64]"),
    good.replace("[4, 64]", "[9007199254740991, 64]"),
    good.replace("[4, 64]", "4"),
    good.replace("bfloat16", "int8"),
    good.replace("}", `, "nested_offset": "x"}`),
    good.replace("}", `, "nested_offset": 1, "nested_blocksize": 128}`),
  ];
  for (const text of bad) {
    assert.throws(() => readQuantState("q", encode(text)), CheckpointError, text);
  }
  assert.throws(() => readQuantState("q", Uint8Array.of(0xff, 0xfe)), CheckpointError);
});
