/**
 * Llama 1 to 3.x, Mistral, SmolLM2, TinyLlama: RMSNorm, rotary grouped-query attention, SwiGLU (arXiv 2302.13971, 2310.06825).
 * The arithmetic is that of transformers' `LlamaForCausalLM` and `MistralForCausalLM` in float32.
 *
 * Refused: another activation than SiLU, rotary kinds that rotary.ts refuses, layers with attention of their own kind, biases that
 * config.json does not announce (transformers would leave them out, and the measured model would not be the one that is loaded).
 */
import { CheckpointError, UnsupportedError } from "../errors.ts";
import type { Block, Family, Linear, Model, Position, Step, StepContext } from "../family.ts";
import type { Scope, Tensor } from "../backend.ts";
import { add } from "../ops/add.ts";
import { attention } from "../ops/attention.ts";
import { rmsNorm } from "../ops/rms_norm.ts";
import { rope } from "../ops/rope.ts";
import { siluMul } from "../ops/silu_mul.ts";
import type { Shape } from "../tensor.ts";
import { type Config, readBoolean, readInteger, readNumber, readString } from "./config.ts";
import { readRotary, rotaryTables } from "./rotary.ts";

/** The architecture of Llama and its kin. */
export const llama: Family = {
  name: "llama",
  modelTypes: ["llama", "mistral"],
  configure,
};

/** Sizes read from config.json. Channels: C = hidden, Q = heads × headDim, K = keyValueHeads × headDim. */
interface Sizes {
  readonly layers: number;
  readonly hidden: number;
  readonly intermediate: number;
  readonly vocab: number;
  readonly headDim: number;
  readonly queries: number;
  readonly keys: number;
  readonly maxPositions: number;
}

/** What the steps of every block compute with. */
interface Arithmetic {
  readonly eps: number;
  readonly headDim: number;
  /** Tokens that attention sees; 0: all. */
  readonly window: number;
}

/** See {@linkcode Family.configure}. */
function configure(config: Config, has: (tensor: string) => boolean): Model {
  const modelType = readString(config, "model_type");
  const sizes = readSizes(config, DEFAULTS[modelType === "mistral" ? "mistral" : "llama"]);
  const activation = readString(config, "hidden_act", "silu");
  if (activation !== "silu" && activation !== "swish") {
    throw new UnsupportedError(
      `Cannot evaluate this model: its hidden_act is ${
        JSON.stringify(activation)
      }, expected "silu". It can still be quantized without evaluation.`,
      {
        what: `hidden_act ${activation}`,
        reason: "the llama family computes SwiGLU with SiLU only",
      },
    );
  }
  const eps = readNumber(config, "rms_norm_eps", { min: 0, max: 1, fallback: 1e-6 });
  const rotary = readRotary(config, sizes);
  const window = modelType === "mistral" ? readWindow(config) : 0;
  checkLayerTypes(config, window ? "sliding_attention" : "full_attention");
  const biased = {
    attention: modelType === "llama" && readBoolean(config, "attention_bias", false),
    mlp: modelType === "llama" && readBoolean(config, "mlp_bias", false),
  };

  const shapes = new Map<string, Shape>();
  const need = (tensor: string, shape: Shape): string => {
    if (!has(tensor)) {
      throw new CheckpointError(
        `Cannot evaluate this model: config.json describes a ${modelType} of ${sizes.layers} layers, but the checkpoint has no tensor "${tensor}".`,
        { tensor },
      );
    }
    shapes.set(tensor, shape);
    return tensor;
  };
  const embedding = need("model.embed_tokens.weight", [sizes.vocab, sizes.hidden]);
  const arithmetic = { eps, headDim: sizes.headDim, window };
  const blocks = Array.from(
    { length: sizes.layers },
    (_, i) => makeBlock(`model.layers.${i}`, { sizes, need, has, biased, arithmetic }),
  );
  const norm = need("model.norm.weight", [sizes.hidden]);
  // A head of its own is used even where the config says "tied": transformers ties the two only when they are equal.
  const tied = readBoolean(config, "tie_word_embeddings", false) && !has("lm_head.weight");
  const head = tied ? embedding : need("lm_head.weight", [sizes.vocab, sizes.hidden]);
  return {
    modelType,
    hiddenSize: sizes.hidden,
    vocabSize: sizes.vocab,
    maxPositions: sizes.maxPositions,
    shapes,
    embedding,
    final: [norm],
    head: { weight: head, bias: undefined, fused: undefined },
    blocks,
    rotary: (length) => rotaryTables(rotary, length),
    finish(x, { scope, weight }) {
      return normalize(x, weight(norm), { scope, eps });
    },
  };
}

/** What transformers (5.23) takes where config.json does not say; null: what follows from the others. */
const DEFAULTS = {
  llama: { inner: 11008, keyValueHeads: null, maxPositions: 2048 },
  mistral: { inner: 14336, keyValueHeads: 8, maxPositions: 4096 * 32 },
} as const;

/** The sizes, each with its type and range checked, and against each other. */
function readSizes(config: Config, defaults: (typeof DEFAULTS)[keyof typeof DEFAULTS]): Sizes {
  // Upper ends are far above any model and far below what breaks arithmetic: a token id must be exact in f32 (2^24).
  const hidden = readInteger(config, "hidden_size", { min: 1, max: 2 ** 20, fallback: 4096 });
  const heads = readInteger(config, "num_attention_heads", {
    min: 1,
    max: 2 ** 14,
    fallback: 32,
  });
  const keyValueHeads = readInteger(config, "num_key_value_heads", {
    min: 1,
    max: 2 ** 14,
    // A null stands for as many as there are heads, in every family.
    fallback: config.num_key_value_heads === null ? heads : defaults.keyValueHeads ?? heads,
  });
  const headDim = readInteger(config, "head_dim", {
    min: 2,
    max: 2 ** 12,
    fallback: hidden / heads,
  });
  const wrong = heads % keyValueHeads !== 0
    ? `num_attention_heads (${heads}) is not a multiple of num_key_value_heads (${keyValueHeads})`
    : headDim % 2 !== 0
    ? `head_dim (${headDim}) is odd, so its halves cannot be rotated`
    : undefined;
  if (wrong) {
    throw new CheckpointError(`Cannot use config.json: ${wrong}.`, { file: "config.json" });
  }
  return {
    layers: readInteger(config, "num_hidden_layers", { min: 1, max: 4096, fallback: 32 }),
    hidden,
    intermediate: readInteger(config, "intermediate_size", {
      min: 1,
      max: 2 ** 22,
      fallback: defaults.inner,
    }),
    vocab: readInteger(config, "vocab_size", { min: 1, max: 2 ** 24, fallback: 32000 }),
    headDim,
    queries: heads * headDim,
    keys: keyValueHeads * headDim,
    maxPositions: readInteger(config, "max_position_embeddings", {
      min: 1,
      max: 2 ** 30,
      fallback: defaults.maxPositions,
    }),
  };
}

/** Mistral's `sliding_window`: 0 for null (full attention); 4096 when config.json does not say, as in transformers. */
function readWindow(config: Config): number {
  if (config.sliding_window === null) return 0;
  return readInteger(config, "sliding_window", { min: 1, max: 2 ** 30, fallback: 4096 });
}

/** Refuse layers whose attention differs from what this model type computes everywhere. */
function checkLayerTypes(config: Config, expected: string): void {
  const types = config.layer_types ?? undefined;
  if (types === undefined) return;
  const other = Array.isArray(types) ? types.find((type) => type !== expected) : types;
  if (other !== undefined) {
    throw new UnsupportedError(
      `Cannot evaluate this model: config.json's layer_types hold ${
        JSON.stringify(other)
      }, expected "${expected}" for every layer of this model type.`,
      { what: "layer_types", reason: "all layers must have the same attention" },
    );
  }
}

/** The steps of one block, every tensor asked for. */
function makeBlock(
  name: string,
  { sizes, need, has, biased, arithmetic }: {
    readonly sizes: Sizes;
    readonly need: (tensor: string, shape: Shape) => string;
    readonly has: (tensor: string) => boolean;
    readonly biased: { readonly attention: boolean; readonly mlp: boolean };
    readonly arithmetic: Arithmetic;
  },
): Block {
  const linear = (
    path: string,
    { rows, columns, fused }: { rows: number; columns: number; fused?: string },
  ): Linear => {
    const part = path.startsWith("mlp.") ? "mlp" : "attention";
    const bias = `${name}.${path}.bias`;
    if (!biased[part] && has(bias)) {
      throw new UnsupportedError(
        `Cannot evaluate this model: the checkpoint has "${bias}", but its config.json describes a model without it, and transformers would leave it out. If the model was trained with biases, config.json must say so (${part}_bias).`,
        { what: bias, reason: "config.json does not announce it" },
      );
    }
    return {
      weight: need(`${name}.${path}.weight`, [rows, columns]),
      bias: biased[part] ? need(bias, [rows]) : undefined,
      fused: fused && `${name}.${fused}`,
    };
  };
  const { hidden, queries, keys, intermediate } = sizes;
  const qkv = { columns: hidden, fused: "self_attn.qkv_proj" };
  const gateUp = { rows: intermediate, columns: hidden, fused: "mlp.gate_up_proj" };
  const q = linear("self_attn.q_proj", { rows: queries, ...qkv });
  const k = linear("self_attn.k_proj", { rows: keys, ...qkv });
  const v = linear("self_attn.v_proj", { rows: keys, ...qkv });
  const o = linear("self_attn.o_proj", { rows: hidden, columns: queries });
  const gate = linear("mlp.gate_proj", gateUp);
  const up = linear("mlp.up_proj", gateUp);
  const down = linear("mlp.down_proj", { rows: hidden, columns: intermediate });
  const attentionNorm = need(`${name}.input_layernorm.weight`, [hidden]);
  const mlpNorm = need(`${name}.post_attention_layernorm.weight`, [hidden]);
  const steps: Step[] = [
    {
      ...normed("attn_in", [q, k, v], { channels: hidden, norm: attentionNorm, arithmetic }),
      next: ({ residual }, [q, k, v], context) => ({
        residual,
        hidden: attend({ q: q!, k: k!, v: v! }, context, arithmetic),
      }),
    },
    joining("attn_out", o, {
      channels: queries,
      scaledBy: { kind: "linear", linear: v, rows: valueRows(sizes) },
    }),
    {
      ...normed("mlp_in", [gate, up], { channels: hidden, norm: mlpNorm, arithmetic }),
      next({ residual }, [gate, up], { scope: { backend } }) {
        backend.run(siluMul, { up: up!, gate: gate! });
        return { residual, hidden: gate! };
      },
    },
    joining("mlp_down", down, {
      channels: intermediate,
      scaledBy: {
        kind: "linear",
        linear: up,
        rows: Uint32Array.from({ length: intermediate }, (_, i) => i),
      },
    }),
  ];
  return {
    name,
    steps,
    linears: steps.flatMap(({ linears }) => linears),
    others: [attentionNorm, mlpNorm],
  };
}

/** The row of v_proj that makes each channel of o_proj's input: query heads share key and value heads. */
function valueRows({ headDim, queries, keys }: Sizes): Uint32Array {
  const shared = queries / keys;
  return Uint32Array.from({ length: queries }, (_, channel) => {
    const head = Math.floor(channel / headDim);
    return Math.floor(head / shared) * headDim + channel % headDim;
  });
}

/** A step whose input is the norm of the residual stream. */
function normed(
  tap: string,
  linears: readonly Linear[],
  { channels, norm, arithmetic: { eps } }: {
    readonly channels: number;
    readonly norm: string;
    readonly arithmetic: Arithmetic;
  },
): Omit<Step, "next"> {
  return {
    tap,
    linears,
    channels,
    stored: false,
    joins: false,
    scaledBy: { kind: "norm", weight: norm },
    input: ({ residual }, { scope, weight }) => normalize(residual, weight(norm), { scope, eps }),
  };
}

/** A step whose one linear adds its output to the residual stream. */
function joining(
  tap: string,
  linear: Linear,
  { channels, scaledBy }: Pick<Step, "channels" | "scaledBy">,
): Step {
  return {
    tap,
    linears: [linear],
    channels,
    stored: true,
    joins: true,
    scaledBy,
    input: ({ hidden }) => hidden!,
    next({ residual }: Position, [y]: readonly Tensor[], { scope: { backend } }) {
      backend.run(add, { y: residual, x: y! });
      return { residual: y! };
    },
  };
}

/** attention(rope(q), rope(k), v): f32[T, Q], f32[T, K] twice → f32[T, Q]. */
function attend(
  { q, k, v }: Readonly<Record<"q" | "k" | "v", Tensor>>,
  { scope, cos, sin }: StepContext,
  { headDim, window }: Arithmetic,
): Tensor {
  const { backend } = scope;
  backend.run(rope, { cos, sin, x: q });
  backend.run(rope, { cos, sin, x: k });
  const o = scope.alloc("f32", q.shape);
  const scale = 1 / Math.sqrt(headDim);
  backend.run(attention, { q, k, v, o }, { head_dim: headDim, window, scale });
  return o;
}

/** RMSNorm (arXiv 1910.07467): x f32[T, C], weight [C] → f32[T, C] in `scope`. */
function normalize(
  x: Tensor,
  weight: Tensor,
  { scope, eps }: { readonly scope: Scope; readonly eps: number },
): Tensor {
  const y = scope.alloc("f32", x.shape);
  scope.backend.run(rmsNorm, { x, weight, y }, { eps });
  return y;
}
