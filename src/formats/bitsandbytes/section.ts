/** bitsandbytes' section of config.json, and who opens its checkpoints. Refuses 4-bit and 8-bit weights in one checkpoint. */
import { UnsupportedError } from "../../errors.ts";
import type { Loader, PlannedWeight } from "../../format.ts";
import type { Scheme } from "../../scheme.ts";
import { moduleOf } from "../bytes.ts";
import { numberAs, pythonFloat, torchName } from "../config_json.ts";
import { isCodebook, isQuantizable, type Quantizable } from "./layout.ts";

/** What makes two schemes need two sections. */
function sectionKey(scheme: Quantizable): string {
  return isCodebook(scheme)
    ? `${scheme.kind}${scheme.doubleQuant ? " with" : " without"} double quantization`
    : `LLM.int8() with threshold ${scheme.threshold}`;
}

/** The one scheme that stands for all of a checkpoint's weights. */
function onlyScheme(weights: readonly PlannedWeight[]): Quantizable | undefined {
  const byKey = new Map<string, Quantizable>();
  for (const { scheme } of weights) {
    if (scheme && isQuantizable(scheme)) byKey.set(sectionKey(scheme), scheme);
  }
  if (byKey.size > 1) {
    const reason = `bitsandbytes' section says one thing for all weights, not ${
      [...byKey.keys()].join(" and ")
    }`;
    throw new UnsupportedError(`Cannot write these schemes into one checkpoint: ${reason}.`, {
      what: "bitsandbytes",
      reason,
    });
  }
  return [...byKey.values()][0];
}

/** Modules the loader must leave alone. An explicit list replaces transformers' own, so the head is always in it. */
function skippedModules(weights: readonly PlannedWeight[]): string[] {
  const left = weights.filter(({ linear, scheme }) => linear && !scheme);
  const names = new Set(left.map(({ name }) => moduleOf(name) ?? name));
  const headQuantized = weights.some(({ name, scheme }) => name === "lm_head.weight" && scheme);
  if (!headQuantized) names.add("lm_head");
  return [...names];
}

/** The JSON text of `quantization_config`; undefined when no weight is quantized. */
export function section(weights: readonly PlannedWeight[], modelDType: string): string | undefined {
  const scheme = onlyScheme(weights);
  if (!scheme) return undefined;
  const codebook = isCodebook(scheme) ? scheme : undefined;
  // transformers wants a float: 6.0, never 6. The threshold means nothing for 4 bits; 6.0 is the library's default.
  const threshold = pythonFloat(scheme.kind === "llm_int8" ? scheme.threshold : 6);
  return JSON.stringify({
    quant_method: "bitsandbytes",
    load_in_4bit: codebook !== undefined,
    load_in_8bit: codebook === undefined,
    bnb_4bit_quant_type: codebook?.kind ?? "fp4",
    bnb_4bit_use_double_quant: codebook?.doubleQuant ?? false,
    bnb_4bit_compute_dtype: torchName(modelDType),
    bnb_4bit_quant_storage: "uint8",
    llm_int8_skip_modules: skippedModules(weights),
    llm_int8_threshold: numberAs(threshold),
    llm_int8_enable_fp32_cpu_offload: false,
    llm_int8_has_fp16_weight: false,
  });
}

const LOADERS_4BIT: readonly Loader[] = [
  { name: "transformers", takes: true, why: "with bitsandbytes, on GPU and CPU" },
  { name: "vLLM", takes: true, why: "finds weights by their quant_state; bitsandbytes 0.46.1 on" },
  { name: "SGLang", takes: true, why: "basic support of prequantized 4-bit weights" },
  { name: "TGI", takes: false, why: "it quantizes with bitsandbytes itself and reads no results" },
  { name: "llama.cpp", takes: false, why: "its converter does not read bitsandbytes" },
  { name: "ExLlama", takes: false, why: "it reads GPTQ and EXL files" },
];

const LOADERS_8BIT: readonly Loader[] = [
  { name: "transformers", takes: true, why: "with bitsandbytes, on GPU and CPU" },
  { name: "vLLM", takes: true, why: "reads int8 weights with SCB" },
  { name: "SGLang", takes: false, why: "only parts of its loader read prequantized int8" },
  ...LOADERS_4BIT.slice(3),
];

/** Who opens a checkpoint with these schemes and weights. */
export function loadersOf(
  schemes: readonly Scheme[],
  weights: readonly PlannedWeight[] = [],
): Loader[] {
  const loaders = schemes.some(isCodebook) ? LOADERS_4BIT : LOADERS_8BIT;
  const odd = weights.find(({ scheme, shape }) => scheme && shape.length !== 2);
  if (odd) {
    const why = `"${odd.name}" has ${odd.shape.length} dimensions; loaders read matrices`;
    return loaders.map(({ name }) => ({ name, takes: false, why }));
  }
  const crossed = weights.find(({ scheme, shape }) =>
    scheme && isCodebook(scheme) && shape[1]! % scheme.block !== 0
  );
  if (!crossed) return [...loaders];
  // Seen with bitsandbytes 0.50.2: its CPU dequantization starts a new block with every row, its quantization does not.
  const caveat = `on GPU only: blocks cross the rows of "${crossed.name}", and bitsandbytes ` +
    "0.50's CPU code misreads such weights";
  return loaders.map((loader) =>
    loader.name === "transformers" ? { ...loader, why: caveat } : loader
  );
}
