/**
 * Llama 1 to 3.x, Mistral, SmolLM2, TinyLlama: RMSNorm, rotary grouped-query attention, SwiGLU (arXiv 2302.13971, 2310.06825).
 * The arithmetic is that of transformers' `LlamaForCausalLM` and `MistralForCausalLM` in float32.
 *
 * Refused: another activation than SiLU, rotary kinds that rotary.ts refuses, layers with attention of their own kind, biases that
 * config.json does not announce (transformers would leave them out, and the measured model would not be the one that is loaded).
 */
import { CheckpointError, UnsupportedError } from "../errors.ts";
import type { Block, Family, Forward, Linear, Model } from "../family.ts";
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

/** A block and the parts its forward pass names. */
interface LlamaBlock extends Block {
  readonly norm: { readonly attention: string; readonly mlp: string };
  readonly part: Readonly<
    Record<"q" | "k" | "v" | "o" | "gate" | "up" | "down", Linear>
  >;
}

/** See {@linkcode Family.configure}. */
function configure(config: Config, has: (tensor: string) => boolean): Model {
  const modelType = readString(config, "model_type");
  const sizes = readSizes(config);
  const activation = readString(config, "hidden_act", "silu");
  if (activation !== "silu") {
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
  const blocks = Array.from(
    { length: sizes.layers },
    (_, i) => makeBlock(`model.layers.${i}`, { sizes, need, has, biased }),
  );
  const norm = need("model.norm.weight", [sizes.hidden]);
  // A head of its own is used even where the config says "tied": transformers ties the two only when they are equal.
  const tied = readBoolean(config, "tie_word_embeddings", false) && !has("lm_head.weight");
  const head = tied ? embedding : need("lm_head.weight", [sizes.vocab, sizes.hidden]);
  const byName = new Map(blocks.map((block) => [block.name, block]));
  return {
    modelType,
    hiddenSize: sizes.hidden,
    vocabSize: sizes.vocab,
    maxPositions: sizes.maxPositions,
    widestActivation: Math.max(sizes.hidden, sizes.queries, sizes.intermediate),
    shapes,
    embedding,
    final: [norm],
    head: { weight: head, bias: undefined, tap: "head", fused: undefined },
    blocks,
    rotary: (length) => rotaryTables(rotary, length),
    forward(block, x, forward) {
      const known = byName.get(block.name);
      if (!known) {
        throw new RangeError(`Cannot run block "${block.name}": the model has no such block`);
      }
      const head_dim = sizes.headDim;
      const scale = 1 / Math.sqrt(head_dim);
      const middle = attend(known, x, forward, { eps, head_dim, window, scale });
      const y = feed(known, middle, forward, { eps });
      free(middle, forward.scope);
      return y;
    },
    finish(x, { scope, weight }) {
      return normalize(x, weight(norm), { scope, eps });
    },
  };
}

/** The sizes, each with its type and range checked, and against each other. */
function readSizes(config: Config): Sizes {
  // Upper ends are far above any model and far below what breaks arithmetic: a token id must be exact in f32 (2^24).
  const hidden = readInteger(config, "hidden_size", { min: 1, max: 2 ** 20 });
  const heads = readInteger(config, "num_attention_heads", { min: 1, max: 2 ** 14 });
  const keyValueHeads = readInteger(config, "num_key_value_heads", {
    min: 1,
    max: 2 ** 14,
    fallback: heads,
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
    layers: readInteger(config, "num_hidden_layers", { min: 1, max: 4096 }),
    hidden,
    intermediate: readInteger(config, "intermediate_size", { min: 1, max: 2 ** 22 }),
    vocab: readInteger(config, "vocab_size", { min: 1, max: 2 ** 24 }),
    headDim,
    queries: heads * headDim,
    keys: keyValueHeads * headDim,
    maxPositions: readInteger(config, "max_position_embeddings", { min: 1, max: 2 ** 30 }),
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

/** The names and parts of one block, every tensor asked for. */
function makeBlock(
  name: string,
  { sizes, need, has, biased }: {
    readonly sizes: Sizes;
    readonly need: (tensor: string, shape: Shape) => string;
    readonly has: (tensor: string) => boolean;
    readonly biased: { readonly attention: boolean; readonly mlp: boolean };
  },
): LlamaBlock {
  const linear = (
    path: string,
    { rows, columns, tap, fused }: {
      rows: number;
      columns: number;
      tap: string;
      fused?: string;
    },
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
      tap,
      fused: fused && `${name}.${fused}`,
    };
  };
  const { hidden, queries, keys, intermediate } = sizes;
  const qkv = { columns: hidden, tap: "attn_in", fused: "self_attn.qkv_proj" };
  const gateUp = {
    rows: intermediate,
    columns: hidden,
    tap: "mlp_in",
    fused: "mlp.gate_up_proj",
  };
  const part = {
    q: linear("self_attn.q_proj", { rows: queries, ...qkv }),
    k: linear("self_attn.k_proj", { rows: keys, ...qkv }),
    v: linear("self_attn.v_proj", { rows: keys, ...qkv }),
    o: linear("self_attn.o_proj", { rows: hidden, columns: queries, tap: "attn_out" }),
    gate: linear("mlp.gate_proj", gateUp),
    up: linear("mlp.up_proj", gateUp),
    down: linear("mlp.down_proj", { rows: hidden, columns: intermediate, tap: "mlp_down" }),
  };
  const norm = {
    attention: need(`${name}.input_layernorm.weight`, [hidden]),
    mlp: need(`${name}.post_attention_layernorm.weight`, [hidden]),
  };
  return { name, norm, part, linears: Object.values(part), others: Object.values(norm) };
}

/** x + attention(norm(x)): f32[T, C] → f32[T, C]. */
function attend(
  { norm, part }: LlamaBlock,
  x: Tensor,
  forward: Forward,
  { eps, ...scalars }: {
    readonly eps: number;
    readonly head_dim: number;
    readonly window: number;
    readonly scale: number;
  },
): Tensor {
  const { backend } = forward.scope;
  using scope = backend.scope();
  const { linear, weight, cos, sin } = within(forward, scope);
  const normed = normalize(x, weight(norm.attention), { scope, eps });
  const q = linear(part.q, normed);
  const k = linear(part.k, normed);
  const v = linear(part.v, normed);
  free(normed, scope);
  backend.run(rope, { cos, sin, x: q });
  backend.run(rope, { cos, sin, x: k });
  const o = scope.alloc("f32", q.shape);
  backend.run(attention, { q, k, v, o }, scalars);
  const y = linear(part.o, o);
  backend.run(add, { y: x, x: y });
  return forward.scope.adopt(scope.release(y));
}

/** x + SwiGLU(norm(x)): f32[T, C] → f32[T, C]. */
function feed(
  { norm, part }: LlamaBlock,
  x: Tensor,
  forward: Forward,
  { eps }: { readonly eps: number },
): Tensor {
  const { backend } = forward.scope;
  using scope = backend.scope();
  const { linear, weight } = within(forward, scope);
  const normed = normalize(x, weight(norm.mlp), { scope, eps });
  const gate = linear(part.gate, normed);
  const up = linear(part.up, normed);
  free(normed, scope);
  backend.run(siluMul, { up, gate });
  free(up, scope);
  const y = linear(part.down, gate);
  backend.run(add, { y: x, x: y });
  return forward.scope.adopt(scope.release(y));
}

/** The same stream with a shorter-lived scope, so that a block's intermediates are freed as soon as they can be. */
function within(forward: Forward, scope: Scope): Forward {
  return {
    scope,
    cos: forward.cos,
    sin: forward.sin,
    weight: (name) => forward.weight(name),
    linear: (linear, x) => scope.adopt(forward.scope.release(forward.linear(linear, x))),
  };
}

/** Free a tensor before its scope ends. */
function free(tensor: Tensor, scope: Scope): void {
  scope.release(tensor)[Symbol.dispose]();
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
