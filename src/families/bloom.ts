/**
 * BLOOM (arXiv 2211.05100): LayerNorm, also of the embeddings; ALiBi; q, k and v of each head in
 * one matrix.
 */
import { slopesOf } from "./alibi.ts";
import { type Description, family } from "./model.ts";
import { attention, layerNorm, linear, plain, sequential } from "./parts.ts";
import { refuseSizes } from "./read.ts";

/** BLOOM's config names no longest text; windows of any length are run as long as this. */
const MAX_POSITIONS = 2048;

/** See the head of this file. */
export const bloom = family(["bloom"], (c): Description => {
  const hidden = c.int(["n_embed", "hidden_size"], 64);
  const heads = c.int(["num_attention_heads", "n_head"], 8);
  const layers = c.int(["num_hidden_layers", "n_layer"], 2);
  const vocab = c.int("vocab_size", 250880);
  const eps = c.eps("layer_norm_epsilon", 1e-5);
  const onNormed = c.flag("apply_residual_connection_post_layernorm", false);
  if (hidden % heads !== 0) {
    refuseSizes(`hidden_size (${hidden}) is not a multiple of n_head (${heads})`);
  }
  const dim = hidden / heads;
  const slopes = slopesOf(heads);
  // One for all layers: its table is made once.
  const bias = (tokens: number) =>
    Float32Array.from(
      { length: heads * tokens },
      (_, i) => slopes[Math.floor(i / tokens)]! * (i % tokens),
    );
  const third = (n: number) =>
    linear("self_attention.query_key_value", {
      rows: hidden,
      columns: hidden,
      bias: true,
      part: { perHead: 3 * dim, from: n * dim, to: (n + 1) * dim },
    });
  const matrix = (module: string, rows: number, columns: number) =>
    linear(module, { rows, columns, bias: true });
  return {
    hiddenSize: hidden,
    vocabSize: vocab,
    maxPositions: c.int("seq_length", MAX_POSITIONS),
    roots: ["transformer.", ""],
    embedding: {
      table: "word_embeddings.weight",
      norm: layerNorm("word_embeddings_layernorm", eps),
    },
    layers: "h",
    final: layerNorm("ln_f", eps),
    head: { weight: ["lm_head.weight"], tied: c.flag("tie_word_embeddings", true) },
    blocks: Array.from({ length: layers }, () =>
      sequential(
        {
          name: "attention",
          pre: layerNorm("input_layernorm", eps),
          onNormed,
          part: attention({
            q: third(0),
            k: third(1),
            v: third(2),
            o: matrix("self_attention.dense", hidden, hidden),
            heads,
            keyValueHeads: heads,
            dim,
            scale: 1 / Math.sqrt(dim),
            bias,
          }),
        },
        {
          name: "mlp",
          pre: layerNorm("post_attention_layernorm", eps),
          onNormed,
          part: plain({
            up: matrix("mlp.dense_h_to_4h", 4 * hidden, hidden),
            down: matrix("mlp.dense_4h_to_h", hidden, 4 * hidden),
            act: "gelu_tanh",
          }),
        },
      )),
  };
});
