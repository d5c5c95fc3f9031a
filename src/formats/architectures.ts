/**
 * What is known of loaders and architectures (classes, as `config.json` names them). Of
 * transformers 5.23 and GPTQModel 7.7, which `deno task test:peers` runs on a tiny model of each
 * row: all that no failure names was opened there and computed what it should. Of others, what
 * their own sources listed in 2026: vLLM's registry, SGLang's and TGI's lists of models,
 * llama.cpp's converters, ExLlamaV2's architectures; of those only where layers are stored one by
 * one, as the loaders' quantized layers want them.
 */
import type { Content } from "../format.ts";
import { moduleOf } from "./bytes.ts";

/**
 * How weights are stored, as far as loaders tell it apart by architecture; `affine` is packed with
 * zero points.
 */
export type Storage =
  | "packed"
  | "affine"
  | "int8"
  | "fp8"
  | "4-bit"
  | "LLM.int8"
  | "gptq"
  | "awq";

/** Something that transformers does not open. */
interface Failure {
  readonly storages: readonly Storage[];
  /** The weights that it does not open stored so; absent, all. */
  readonly of?: RegExp;
  /** What it does with them. */
  readonly why: string;
}

/** What is known of one architecture. */
export interface Architecture {
  /** Loaders beside transformers that open it. */
  readonly listed: readonly string[];
  readonly failures: readonly Failure[];
  /**
   * The module of the output head, where it is not `lm_head`; tied to the embedding, it has no
   * weight of its own in a checkpoint.
   */
  readonly head: string | undefined;
  /**
   * Whether transformers asks layers for their weight before a packed one is there (to initialise
   * it, or for its dtype): then it opens compressed-tensors' packed weights only where it
   * dequantizes them while loading.
   */
  readonly early: boolean;
}

const BITSANDBYTES = ["4-bit", "LLM.int8"] as const;

/** One expert of several: `model.layers.0.mlp.experts.7.up_proj.weight` */
export const EXPERT = /\.experts\.\d+\./;

const EXPERTS: Failure = {
  storages: ["affine", "int8", ...BITSANDBYTES, "gptq", "awq"],
  of: EXPERT,
  why: "transformers 5 stacks experts while loading, and cannot stack those that are stored so",
};

const NO_BLOCKS: Failure = {
  storages: ["gptq"],
  why: "optimum, which transformers reads GPTQ with, finds the blocks of decoders of text alone",
};

const SCALED_ACTIVATION: Failure = {
  storages: ["awq"],
  why: "transformers wants a scale for the activation function, which AutoAWQ stores",
};

const EARLY: Failure = {
  storages: ["gptq", "awq"],
  why: "transformers asks the layers of this model for their weights, and packed ones have none",
};

const RENAMED_HEAD: Failure = {
  storages: ["packed", "affine", "int8", "fp8", ...BITSANDBYTES, "gptq", "awq"],
  of: /^embed_out\.weight$/,
  why: "transformers 5 renames the output head, and does not find it quantized; leave it alone",
};

const OWN_LINEAR: Failure = {
  storages: [...BITSANDBYTES, "gptq", "awq"],
  why: "its layers are of a class of their own, which transformers does not replace",
};

/** T5's, which transformers keeps in float32 where the model is float16. */
const KEPT: Failure = {
  storages: [...BITSANDBYTES],
  of: /\.wo\.weight$/,
  why: "transformers keeps the layers wo of this model in floats; leave them alone",
};

const CONV1D: Failure = {
  storages: ["packed", "affine", "int8", "fp8", "awq"],
  why:
    "its layers are of a class of their own (Conv1D), which transformers replaces for bitsandbytes alone",
};

const EARLY_CONV1D: Failure = {
  storages: ["gptq"],
  why:
    "transformers initialises the layers of this model by their weights, and packed ones have none",
};

const NAMED_ALIKE: Failure = {
  storages: ["gptq"],
  why:
    "optimum knows layers by their names within a block, which those of the vision tower have too",
};

function row(
  loaders: string,
  { failures = [], head, early = false }: Partial<Omit<Architecture, "listed">> = {},
): Architecture {
  return { listed: loaders.split(" ").filter((name) => name !== ""), failures, head, early };
}

const GPTQ_FAILS = { failures: [NO_BLOCKS] };
const EXPERTS_FAIL = { failures: [EXPERTS] };

/** By the class that `config.json` names. */
export const ARCHITECTURES: Readonly<Record<string, Architecture>> = {
  // Decoders of linear layers alone.
  LlamaForCausalLM: row("GPTQModel vLLM SGLang TGI llama.cpp ExLlama"),
  MistralForCausalLM: row("GPTQModel vLLM SGLang TGI llama.cpp ExLlama"),
  Qwen2ForCausalLM: row("GPTQModel vLLM SGLang TGI llama.cpp ExLlama"),
  Qwen3ForCausalLM: row("GPTQModel vLLM SGLang llama.cpp"),
  SmolLM3ForCausalLM: row("GPTQModel llama.cpp"),
  Gemma2ForCausalLM: row("GPTQModel vLLM SGLang TGI llama.cpp ExLlama"),
  Gemma3ForCausalLM: row("GPTQModel vLLM SGLang llama.cpp"),
  Phi3ForCausalLM: row("vLLM SGLang TGI llama.cpp ExLlama"),
  PhiForCausalLM: row("GPTQModel vLLM SGLang llama.cpp"),
  Olmo2ForCausalLM: row("GPTQModel vLLM llama.cpp"),
  Olmo3ForCausalLM: row("GPTQModel vLLM llama.cpp"),
  GraniteForCausalLM: row("GPTQModel vLLM SGLang TGI llama.cpp ExLlama"),
  Glm4ForCausalLM: row("vLLM llama.cpp"),
  CohereForCausalLM: row("GPTQModel vLLM SGLang TGI llama.cpp ExLlama"),
  StableLmForCausalLM: row("GPTQModel llama.cpp"),
  OPTForCausalLM: row("GPTQModel vLLM"),
  Qwen3_5ForCausalLM: row("llama.cpp"),
  GPTNeoXForCausalLM: row("llama.cpp", { failures: [SCALED_ACTIVATION, RENAMED_HEAD] }),
  BloomForCausalLM: row("llama.cpp", { failures: [SCALED_ACTIVATION] }),
  FalconForCausalLM: row("llama.cpp", { failures: [OWN_LINEAR], early: true }),
  GPTBigCodeForCausalLM: row("llama.cpp", { failures: [EARLY], early: true }),
  GPT2LMHeadModel: row("GPTQModel llama.cpp", { failures: [CONV1D, EARLY_CONV1D] }),
  // Experts; those of the last two are stacked in the checkpoint too, and left alone.
  MixtralForCausalLM: row("vLLM llama.cpp", EXPERTS_FAIL),
  Qwen2MoeForCausalLM: row("vLLM llama.cpp", EXPERTS_FAIL),
  Qwen3MoeForCausalLM: row("vLLM llama.cpp", EXPERTS_FAIL),
  Qwen3NextForCausalLM: row("llama.cpp", EXPERTS_FAIL),
  OlmoeForCausalLM: row("vLLM llama.cpp", EXPERTS_FAIL),
  DeepseekV3ForCausalLM: row("vLLM llama.cpp", EXPERTS_FAIL),
  Glm4MoeForCausalLM: row("vLLM llama.cpp", EXPERTS_FAIL),
  GraniteMoeForCausalLM: row("llama.cpp"),
  GptOssForCausalLM: row("llama.cpp"),
  // Other heads, and none.
  LlamaForSequenceClassification: row(""),
  LlamaForTokenClassification: row(""),
  Qwen3ForSequenceClassification: row(""),
  LlamaModel: row(""),
  MistralModel: row(""),
  // Encoders.
  BertModel: row("llama.cpp", GPTQ_FAILS),
  BertForMaskedLM: row("", { ...GPTQ_FAILS, head: "cls.predictions.decoder" }),
  BertForSequenceClassification: row("llama.cpp", GPTQ_FAILS),
  RobertaForMaskedLM: row("", { ...GPTQ_FAILS, head: "lm_head.decoder" }),
  RobertaForSequenceClassification: row("llama.cpp", GPTQ_FAILS),
  XLMRobertaModel: row("llama.cpp", GPTQ_FAILS),
  DistilBertForSequenceClassification: row("llama.cpp", GPTQ_FAILS),
  ModernBertForMaskedLM: row("llama.cpp", { failures: [EARLY], head: "decoder", early: true }),
  // Encoder-decoders.
  T5ForConditionalGeneration: row("llama.cpp", {
    failures: [NO_BLOCKS, EARLY, KEPT],
    early: true,
  }),
  BartForConditionalGeneration: row("", GPTQ_FAILS),
  MarianMTModel: row("", GPTQ_FAILS),
  WhisperForConditionalGeneration: row("", { ...GPTQ_FAILS, head: "proj_out" }),
  // Pictures, and a text model beside one of pictures.
  ViTForImageClassification: row("", GPTQ_FAILS),
  Gemma3ForConditionalGeneration: row("", { failures: [NAMED_ALIKE] }),
};

/** The class that `config.json` names; undefined when it names none. */
export function classOf({ config }: Pick<Content, "config">): string | undefined {
  const [first] = Array.isArray(config.architectures) ? config.architectures : [];
  return typeof first === "string" ? first : undefined;
}

/** What is known of a checkpoint's architecture; undefined where nothing is. */
export function architectureOf(content: Pick<Content, "config">): Architecture | undefined {
  const name = classOf(content);
  return name !== undefined && Object.hasOwn(ARCHITECTURES, name) ? ARCHITECTURES[name] : undefined;
}

/** The module of the output head, as far as is known. */
export function headOf(content: Pick<Content, "config">): string {
  return architectureOf(content)?.head ?? "lm_head";
}

/**
 * The output head where it is not quantized, though the checkpoint may have no weight of it that a
 * list could name.
 */
export function plainHead({ weights, config }: Content): string | undefined {
  const head = headOf({ config });
  return weights.some(({ name, scheme }) => scheme && moduleOf(name) === head) ? undefined : head;
}
