/**
 * What a checkpoint must be so that it can be quantized: a model, whole, and in floats. Adapters
 * and checkpoints that some tool has quantized before are refused, by the name of what they are.
 */
import { UnsupportedError } from "../errors.ts";
import { isObject } from "../json.ts";
import type { TensorSource } from "../source.ts";

/**
 * How the tensors of quantized checkpoints are called, where config.json does not say by what they
 * were quantized.
 */
const TRACES: readonly (readonly [pattern: RegExp, by: string])[] = [
  [/\.(qweight|qzeros|g_idx)$/, "GPTQ or AWQ"],
  [/\.weight_scale_2$/, "ModelOpt"],
  [/\.(weight_packed|weight_scale|weight_zero_point)$/, "compressed-tensors"],
  [/\.(quant_state\.bitsandbytes__\w+|SCB)$/, "bitsandbytes"],
  [/\.weight_scale_inv$/, "fp8"],
  [/_proj_blocks$/, "MXFP4"],
  [/\.q_(weight|scale_max|invperm)$/, "EXL2"],
  [/\.trellis$/, "EXL3"],
  [/\.codebooks$/, "AQLM"],
  [/\.W_q$/, "HQQ"],
  [/\.weight\._data\._data$/, "Quanto"],
];

/**
 * What a checkpoint was quantized by: its config's word, or what its tensors' names betray;
 * undefined when by nothing.
 */
export function quantizedBy(
  { config, tensors }: Pick<TensorSource, "config" | "tensors">,
): string | undefined {
  const text = isObject(config.text_config) ? config.text_config : {};
  const section = config.quantization_config ?? text.quantization_config ?? config.quantization;
  if (isObject(section)) {
    if (section.quant_method !== undefined) return String(section.quant_method);
    if (section.load_in_4bit || section.load_in_8bit) return "bitsandbytes";
    return "group_size" in section && "bits" in section ? "MLX" : "an unnamed method";
  }
  const names = [...tensors.keys()];
  return TRACES.find(([pattern]) => names.some((name) => pattern.test(name)))?.[1];
}

/** Names of the tensors that adapters have (PEFT's, diffusers'). */
const ADAPTED =
  /[._](lora_(A|B|up|down|embedding_[AB]|magnitude_vector)|hada_w\d|lokr_w\d)([._]|$)/;

/**
 * Refuse what is no model in floats.
 *
 * @throws {UnsupportedError} it is an adapter, or some tool has quantized it before; the sentence
 * says which.
 */
export function refuseUnusable(source: TensorSource): void {
  const names = [...source.tensors.keys()];
  const adapter = source.files.has("adapter_config.json") ||
    names.some((name) => ADAPTED.test(name));
  if (adapter) {
    const reason = names.length > 0 && names.every((name) => ADAPTED.test(name))
      ? "it is an adapter, not a model"
      : "it holds an adapter beside a model";
    throw new UnsupportedError(
      `Cannot quantize ${source.label}: ${reason}. Merge the adapter into its base model first ` +
        "(PEFT's `merge_and_unload()`, then `save_pretrained()`), and quantize the result.",
      { what: source.label, reason },
    );
  }
  refuseQuantized(source, {
    doing: `quantize ${source.label}`,
    advice: "Quantize the original checkpoint instead.",
  });
}

/**
 * Refuse what some tool has quantized before.
 *
 * @throws {UnsupportedError} it is quantized; the sentence says by what, what cannot be done with
 * it, and what to do.
 */
export function refuseQuantized(
  source: TensorSource,
  { doing, advice }: { readonly doing: string; readonly advice: string },
): void {
  const by = quantizedBy(source);
  if (by === undefined) return;
  throw new UnsupportedError(`Cannot ${doing}: it is quantized already (${by}). ${advice}`, {
    what: source.label,
    reason: `quantized already (${by})`,
  });
}
