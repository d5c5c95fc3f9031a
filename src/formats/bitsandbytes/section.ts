/** bitsandbytes' section of config.json. Refuses 4-bit and 8-bit weights in one checkpoint. */
import { UnsupportedError } from "../../errors.ts";
import type { Content, PlannedWeight } from "../../format.ts";
import { numberAs, pythonFloat } from "../config_json.ts";
import { skippedModules } from "../skip_list.ts";
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

/** The JSON text of `quantization_config`; undefined when no weight is quantized. */
export function section(content: Content): string | undefined {
  const scheme = onlyScheme(content.weights);
  if (!scheme) return undefined;
  const codebook = isCodebook(scheme) ? scheme : undefined;
  // transformers wants a float: 6.0, never 6. The threshold means nothing for 4 bits; 6.0 is the
  // library's default.
  const threshold = pythonFloat(scheme.kind === "llm_int8" ? scheme.threshold : 6);
  return JSON.stringify({
    quant_method: "bitsandbytes",
    load_in_4bit: codebook !== undefined,
    load_in_8bit: codebook === undefined,
    bnb_4bit_quant_type: codebook?.kind ?? "fp4",
    bnb_4bit_use_double_quant: codebook?.doubleQuant ?? false,
    bnb_4bit_compute_dtype: content.dtype,
    bnb_4bit_quant_storage: "uint8",
    llm_int8_skip_modules: skippedModules(content),
    llm_int8_threshold: numberAs(threshold),
    llm_int8_enable_fp32_cpu_offload: false,
    llm_int8_has_fp16_weight: false,
  });
}
