/**
 * GPT-NeoX and Pythia (arXiv 2204.06745, 2304.01373): LayerNorm, both branches beside each other, a
 * quarter of each head turned.
 */
import { type Description, family } from "./model.ts";
import { attention, layerNorm, linear, parallel, plain, sequential } from "./parts.ts";
import { refuseSizes } from "./read.ts";
import { readRotary } from "./rotary.ts";

/** See the head of this file. */
export const gptNeox = family(["gpt_neox"], (c): Description => {
  const hidden = c.int("hidden_size", 6144);
  const heads = c.int("num_attention_heads", 64);
  const layers = c.int("num_hidden_layers", 44);
  const inner = c.int("intermediate_size", 24576, { max: 2 ** 22 });
  const vocab = c.int("vocab_size", 50432);
  const maxPositions = c.int("max_position_embeddings", 2048);
  const eps = c.eps("layer_norm_eps", 1e-5);
  const act = c.activation("hidden_act", "gelu");
  const bias = c.flag("attention_bias", true);
  if (hidden % heads !== 0) {
    refuseSizes(`hidden_size (${hidden}) is not a multiple of num_attention_heads (${heads})`);
  }
  const dim = hidden / heads;
  const rotary = readRotary(c, {
    headDim: dim,
    maxPositions,
    theta: c.number("rotary_emb_base", 10000, { min: 2, max: 1e12 }),
    partial: c.number("rotary_pct", 0.25, { min: 0, max: 1 }),
  });
  const turned = rotary.rotation();
  const path = c.flag("use_parallel_residual", true) ? parallel : sequential;
  // Of each head, its rows of q, then of k, then of v.
  const third = (n: number) =>
    linear("attention.query_key_value", {
      rows: hidden,
      columns: hidden,
      bias,
      part: { perHead: 3 * dim, from: n * dim, to: (n + 1) * dim },
    });
  return {
    hiddenSize: hidden,
    vocabSize: vocab,
    maxPositions,
    roots: ["gpt_neox.", ""],
    embedding: { table: "embed_in.weight" },
    layers: "layers",
    rotary,
    final: layerNorm("final_layer_norm", eps),
    head: { weight: ["embed_out.weight"], tied: c.flag("tie_word_embeddings", false) },
    blocks: Array.from({ length: layers }, () =>
      path(
        {
          name: "attention",
          pre: layerNorm("input_layernorm", eps),
          part: attention({
            q: third(0),
            k: third(1),
            v: third(2),
            o: linear("attention.dense", { rows: hidden, columns: hidden, bias }),
            heads,
            keyValueHeads: heads,
            dim,
            scale: 1 / Math.sqrt(dim),
            ...(turned ? { rotation: { ...turned, pairs: "halves" } } : {}),
          }),
        },
        {
          name: "mlp",
          pre: layerNorm("post_attention_layernorm", eps),
          part: plain({
            up: linear("mlp.dense_h_to_4h", { rows: inner, columns: hidden, bias: true }),
            down: linear("mlp.dense_4h_to_h", { rows: hidden, columns: inner, bias: true }),
            act,
          }),
        },
      )),
  };
});
