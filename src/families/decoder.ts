/**
 * What most decoders share: their sizes, attention with grouped heads, gated MLPs, and ends with
 * Llama's names.
 */
import type { Activation, Attention, Linear, Norm, Rotation } from "../family.ts";
import type { Description } from "./model.ts";
import { TEXT_HEADS, TEXT_ROOTS } from "./model.ts";
import { attention, gated, linear, type Part, type Path, rms, sequential } from "./parts.ts";
import { type ConfigReader, type LayerType, refuseSizes } from "./read.ts";
import type { Rotary } from "./rotary.ts";

/** What transformers takes for sizes that config.json does not say. */
export interface SizeDefaults {
  readonly vocab: number;
  readonly hidden: number;
  readonly inner: number;
  readonly layers: number;
  readonly heads: number;
  /** Absent: as many as there are heads. */
  readonly keyValueHeads?: number;
  /** Absent: hidden / heads. */
  readonly headDim?: number;
  readonly maxPositions: number;
}

/** Sizes of a decoder. */
export interface Sizes {
  readonly vocab: number;
  readonly hidden: number;
  readonly inner: number;
  readonly layers: number;
  readonly heads: number;
  readonly keyValueHeads: number;
  readonly headDim: number;
  readonly maxPositions: number;
}

/** The sizes, each with its type and range checked, and against each other. */
export function readSizes(c: ConfigReader, defaults: SizeDefaults): Sizes {
  const hidden = c.int("hidden_size", defaults.hidden);
  const heads = c.int("num_attention_heads", defaults.heads);
  // A null stands for as many as there are heads.
  const said = c.config.num_key_value_heads === null ? heads : defaults.keyValueHeads ?? heads;
  const keyValueHeads = c.int("num_key_value_heads", said);
  if (heads % keyValueHeads !== 0) {
    refuseSizes(
      `num_attention_heads (${heads}) is not a multiple of num_key_value_heads (${keyValueHeads})`,
    );
  }
  const headDim = c.int(
    "head_dim",
    c.config.head_dim === null ? hidden / heads : defaults.headDim ?? hidden / heads,
  );
  return {
    vocab: c.int("vocab_size", defaults.vocab),
    hidden,
    inner: c.int("intermediate_size", defaults.inner, { max: 2 ** 22 }),
    layers: c.int("num_hidden_layers", defaults.layers),
    heads,
    keyValueHeads,
    headDim,
    maxPositions: c.int("max_position_embeddings", defaults.maxPositions),
  };
}

/** How the attention of a layer differs from the plain one. */
export interface SelfAttention {
  readonly rotation?: Pick<Rotation, "table" | "dims"> | undefined;
  readonly pairs?: Rotation["pairs"];
  /** Biases of q, k and v. */
  readonly bias?: boolean;
  /** A bias of o; as `bias` unless said otherwise. */
  readonly outBias?: boolean;
  readonly scale?: number;
  readonly window?: number | undefined;
  readonly softcap?: number | undefined;
  readonly temperature?: Attention["temperature"] | undefined;
  readonly qNorm?: Norm | undefined;
  readonly kNorm?: Norm | undefined;
  /** q, k and v are rows of one matrix, called so. */
  readonly together?: string;
}

/** Grouped-query attention under `self_attn`. */
export function selfAttention(
  { hidden, heads, keyValueHeads, headDim }: Sizes,
  { bias = false, outBias = bias, together, ...how }: SelfAttention = {},
): Part {
  const [queries, keys] = [heads * headDim, keyValueHeads * headDim];
  const at = "self_attn";
  const fused = `${at}.qkv_proj`;
  let from = 0;
  const project = (name: string, rows: number): Linear => {
    const part = { from, to: from += rows };
    return together === undefined
      ? linear(`${at}.${name}`, { rows, columns: hidden, bias, fused })
      : linear(`${at}.${together}`, { rows, columns: hidden, bias, part });
  };
  return attention({
    q: project("q_proj", queries),
    k: project("k_proj", keys),
    v: project("v_proj", keys),
    o: linear(`${at}.o_proj`, { rows: hidden, columns: queries, bias: outBias }),
    qNorm: how.qNorm,
    kNorm: how.kNorm,
    heads,
    keyValueHeads,
    dim: headDim,
    scale: how.scale ?? 1 / Math.sqrt(headDim),
    ...(how.rotation
      ? {
        rotation: { pairs: "halves", ...how.rotation, ...(how.pairs ? { pairs: how.pairs } : {}) },
      }
      : {}),
    ...(how.window === undefined ? {} : { window: how.window }),
    ...(how.softcap === undefined ? {} : { softcap: how.softcap }),
    ...(how.temperature === undefined ? {} : { temperature: how.temperature }),
  });
}

/**
 * down(act(gate(x))·up(x)) under `mlp`; `together`: gate and up are rows of one matrix, called so.
 */
export function gatedMlp(
  { hidden, inner }: Pick<Sizes, "hidden" | "inner">,
  { act, bias = false, together }: {
    readonly act: Activation;
    readonly bias?: boolean;
    readonly together?: string;
  },
): Part {
  const size = { rows: inner, columns: hidden, bias };
  const fused = "mlp.gate_up_proj";
  const [gate, up] = together === undefined
    ? [linear("mlp.gate_proj", { ...size, fused }), linear("mlp.up_proj", { ...size, fused })]
    : [
      linear(`mlp.${together}`, { ...size, part: { from: 0, to: inner } }),
      linear(`mlp.${together}`, { ...size, part: { from: inner, to: 2 * inner } }),
    ];
  const down = linear("mlp.down_proj", { rows: hidden, columns: inner, bias });
  return gated({ gate, up, down, act });
}

/** A window that only layers of sliding attention have. */
export function windowOf(type: LayerType, window: number | undefined): number | undefined {
  return type === "sliding_attention" ? window : undefined;
}

/**
 * Llama's block: attention, then an MLP, each behind an RMSNorm and added to the stream; `times`:
 * what both are multiplied by before that.
 */
export function llamaBlock(
  eps: number,
  { attention, mlp, times }: {
    readonly attention: Part;
    readonly mlp: Part;
    readonly times?: number;
  },
): Path {
  const factor = times === undefined ? {} : { times };
  return sequential(
    { name: "attention", pre: rms("input_layernorm", eps), part: attention, ...factor },
    { name: "mlp", pre: rms("post_attention_layernorm", eps), part: mlp, ...factor },
  );
}

/** A decoder whose ends have Llama's names. */
export function decoder(
  c: ConfigReader,
  { sizes, rotary, final, tied = false, embedding = {}, head = {}, block }: {
    readonly sizes: Sizes;
    readonly rotary: Rotary;
    readonly final: Norm;
    /** Whether the head is the embedding table where config.json does not say. */
    readonly tied?: boolean;
    readonly embedding?: { readonly times?: number };
    readonly head?: { readonly times?: number; readonly softcap?: number | undefined };
    readonly block: (layer: number) => Path;
  },
): Description {
  return {
    hiddenSize: sizes.hidden,
    vocabSize: sizes.vocab,
    maxPositions: sizes.maxPositions,
    roots: TEXT_ROOTS,
    embedding: { table: "embed_tokens.weight", ...embedding },
    layers: "layers",
    blocks: Array.from({ length: sizes.layers }, (_, layer) => block(layer)),
    rotary,
    final,
    head: {
      weight: TEXT_HEADS,
      tied: c.flag("tie_word_embeddings", tied),
      ...(head.times === undefined ? {} : { times: head.times }),
      ...(head.softcap === undefined ? {} : { softcap: head.softcap }),
    },
  };
}
