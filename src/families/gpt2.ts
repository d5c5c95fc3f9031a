/**
 * GPT-2 and its kin (distilgpt2, DialoGPT): LayerNorm, learned positions, matrices stored [C, R]
 * (Conv1D), q, k and v in one of them.
 */
import { type Description, family } from "./model.ts";
import { attention, layerNorm, linear, plain, sequential } from "./parts.ts";
import { refuseSizes } from "./read.ts";

/** See the head of this file. */
export const gpt2 = family(["gpt2"], (c): Description => {
  const hidden = c.int(["hidden_size", "n_embd"], 768);
  const heads = c.int(["num_attention_heads", "n_head"], 12);
  const layers = c.int(["num_hidden_layers", "n_layer"], 12);
  const vocab = c.int("vocab_size", 50257);
  const inner = c.int("n_inner", 4 * hidden, { max: 2 ** 22 });
  const maxPositions = c.int(["max_position_embeddings", "n_positions"], 1024);
  const eps = c.eps("layer_norm_epsilon", 1e-5);
  const act = c.activation("activation_function", "gelu_new");
  if (hidden % heads !== 0) {
    refuseSizes(`n_embd (${hidden}) is not a multiple of n_head (${heads})`);
  }
  if (c.flag("add_cross_attention", false)) c.refuse("add_cross_attention", "false");
  const dim = hidden / heads;
  const scaled = c.flag("scale_attn_weights", true) ? 1 / Math.sqrt(dim) : 1;
  const byLayer = c.flag("scale_attn_by_inverse_layer_idx", false);
  const matrix = (module: string, rows: number, columns: number, from = 0, to?: number) =>
    linear(module, {
      rows,
      columns,
      bias: true,
      transposed: true,
      ...(to === undefined ? {} : { part: { from, to } }),
    });
  const third = (n: number) => matrix("attn.c_attn", hidden, hidden, n * hidden, (n + 1) * hidden);
  return {
    hiddenSize: hidden,
    vocabSize: vocab,
    maxPositions,
    roots: ["transformer.", ""],
    embedding: { table: "wte.weight", positions: { table: "wpe.weight", offset: 0 } },
    layers: "h",
    final: layerNorm("ln_f", eps),
    head: { weight: ["lm_head.weight"], tied: c.flag("tie_word_embeddings", true) },
    blocks: Array.from({ length: layers }, (_, i) =>
      sequential(
        {
          name: "attention",
          pre: layerNorm("ln_1", eps),
          part: attention({
            q: third(0),
            k: third(1),
            v: third(2),
            o: matrix("attn.c_proj", hidden, hidden),
            heads,
            keyValueHeads: heads,
            dim,
            scale: byLayer ? scaled / (i + 1) : scaled,
          }),
        },
        {
          name: "mlp",
          pre: layerNorm("ln_2", eps),
          part: plain({
            up: matrix("mlp.c_fc", inner, hidden),
            down: matrix("mlp.c_proj", hidden, inner),
            act,
          }),
        },
      )),
  };
});
