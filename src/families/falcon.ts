/**
 * Falcon (arXiv 2311.16867): q, k and v in one matrix, by head (RW), with one key head for all
 * (7B), or by groups of heads (40B, 180B); branches beside each other, with one norm or two, or one
 * after the other.
 */
import { bf16ToF32, f32ToBf16 } from "../number.ts";
import { slopesOf } from "./alibi.ts";
import { type Description, family } from "./model.ts";
import { attention, layerNorm, linear, parallel, plain, sequential } from "./parts.ts";
import { refuseSizes } from "./read.ts";
import { readRotary } from "./rotary.ts";

/** See the head of this file. */
export const falcon = family(["falcon"], (c): Description => {
  const hidden = c.int(["n_embed", "hidden_size"], 4544);
  const heads = c.int("num_attention_heads", 71);
  const layers = c.int("num_hidden_layers", 32);
  const vocab = c.int("vocab_size", 65024);
  const inner = c.int("ffn_hidden_size", 4 * hidden, { max: 2 ** 22 });
  const maxPositions = c.int("max_position_embeddings", 2048);
  const eps = c.eps("layer_norm_epsilon", 1e-5);
  const act = c.activation("activation", "gelu");
  const bias = c.flag("bias", false);
  const grouped = c.flag("new_decoder_architecture", false);
  const single = c.flag("multi_query", true);
  const groups = c.int("num_kv_heads", heads);
  const keyValueHeads = grouped ? groups : single ? 1 : heads;
  if (hidden % heads !== 0 || heads % keyValueHeads !== 0) {
    refuseSizes(
      `hidden_size (${hidden}) must be a multiple of num_attention_heads (${heads}), and that of ` +
        `the ${keyValueHeads} key and value heads`,
    );
  }
  const dim = hidden / heads;
  const alibi = c.flag("alibi", false);
  const rotary = alibi ? undefined : readRotary(c, { headDim: dim, maxPositions });
  const turned = rotary?.rotation();
  const scale = 1 / Math.sqrt(dim);
  const slopes = slopesOf(heads).map((slope) => bf16ToF32(f32ToBf16(slope)));
  // A group's queries, then its key, then its value.
  const queries = heads / keyValueHeads;
  const perHead = (queries + 2) * dim;
  const part = (from: number, to: number) =>
    linear("self_attention.query_key_value", {
      rows: keyValueHeads * (to - from) * dim,
      columns: hidden,
      bias,
      part: { perHead, from: from * dim, to: to * dim },
    });
  const attend = attention({
    q: part(0, queries),
    k: part(queries, queries + 1),
    v: part(queries + 1, queries + 2),
    o: linear("self_attention.dense", { rows: hidden, columns: hidden, bias }),
    heads,
    keyValueHeads,
    dim,
    scale,
    ...(turned ? { rotation: { ...turned, pairs: "halves" } } : {}),
    ...(alibi
      ? {
        // transformers computes slope · position in bf16, adds it to the scores, and scales both.
        bias: (tokens: number) =>
          Float32Array.from({ length: heads * tokens }, (_, i) =>
            scale * bf16ToF32(f32ToBf16(slopes[Math.floor(i / tokens)]! * (i % tokens)))),
      }
      : {}),
  });
  const mlp = plain({
    up: linear("mlp.dense_h_to_4h", { rows: inner, columns: hidden, bias }),
    down: linear("mlp.dense_4h_to_h", { rows: hidden, columns: inner, bias }),
    act,
  });
  const beside = grouped || c.flag("parallel_attn", true);
  const norms = c.int("num_ln_in_parallel_attn", grouped ? 2 : 1);
  const [first, second] = !beside
    ? ["input_layernorm", "post_attention_layernorm"]
    : norms === 2
    ? ["ln_attn", "ln_mlp"]
    : ["input_layernorm", "input_layernorm"];
  const path = beside ? parallel : sequential;
  return {
    hiddenSize: hidden,
    vocabSize: vocab,
    maxPositions,
    roots: ["transformer.", ""],
    embedding: { table: "word_embeddings.weight" },
    layers: "h",
    rotary,
    final: layerNorm("ln_f", eps),
    head: { weight: ["lm_head.weight"], tied: c.flag("tie_word_embeddings", true) },
    blocks: Array.from({ length: layers }, () =>
      path(
        { name: "attention", pre: layerNorm(first!, eps), part: attend },
        { name: "mlp", pre: layerNorm(second!, eps), part: mlp },
      )),
  };
});
