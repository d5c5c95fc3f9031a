/**
 * OPT (arXiv 2205.01068): LayerNorm, learned positions from the third row on, ReLU. Refused:
 * embeddings of another width (350m).
 */
import type { Norm } from "../family.ts";
import { type Description, family } from "./model.ts";
import { attention, layerNorm, linear, plain, sequential } from "./parts.ts";
import { refuseSizes } from "./read.ts";

/** Rows before that of position 0. */
const OFFSET = 2;

/** See the head of this file. */
export const opt = family(["opt"], (c): Description => {
  const hidden = c.int("hidden_size", 768);
  const heads = c.int("num_attention_heads", 12);
  const layers = c.int("num_hidden_layers", 12);
  const inner = c.int("ffn_dim", 3072, { max: 2 ** 22 });
  const vocab = c.int("vocab_size", 50272);
  const maxPositions = c.int("max_position_embeddings", 2048);
  const act = c.activation("activation_function", "relu");
  const bias = c.flag("enable_bias", true);
  const before = c.flag("do_layer_norm_before", true);
  const affine = c.flag("layer_norm_elementwise_affine", true);
  if (c.int("word_embed_proj_dim", hidden) !== hidden) {
    c.refuse("word_embed_proj_dim", `the hidden size, ${hidden}`);
  }
  if (hidden % heads !== 0) {
    refuseSizes(`hidden_size (${hidden}) is not a multiple of num_attention_heads (${heads})`);
  }
  const dim = hidden / heads;
  const norm = (module: string): Norm =>
    affine ? layerNorm(module, 1e-5) : { kind: "layer", eps: 1e-5 };
  const place = (module: string) => before ? { pre: norm(module) } : { after: norm(module) };
  const square = (module: string) => linear(module, { rows: hidden, columns: hidden, bias });
  const project = (name: string) => ({
    ...square(`self_attn.${name}_proj`),
    fused: "self_attn.qkv_proj",
  });
  return {
    hiddenSize: hidden,
    vocabSize: vocab,
    maxPositions,
    roots: ["model.decoder.", "decoder.", ""],
    embedding: {
      table: "embed_tokens.weight",
      positions: { table: "embed_positions.weight", offset: OFFSET },
    },
    layers: "layers",
    ...(before && !c.flag("_remove_final_layer_norm", false)
      ? { final: norm("final_layer_norm") }
      : {}),
    head: { weight: ["lm_head.weight"], tied: c.flag("tie_word_embeddings", true) },
    blocks: Array.from({ length: layers }, () =>
      sequential(
        {
          name: "attention",
          ...place("self_attn_layer_norm"),
          part: attention({
            q: project("q"),
            k: project("k"),
            v: project("v"),
            o: square("self_attn.out_proj"),
            heads,
            keyValueHeads: heads,
            dim,
            scale: 1 / Math.sqrt(dim),
          }),
        },
        {
          name: "mlp",
          ...place("final_layer_norm"),
          part: plain({
            up: linear("fc1", { rows: inner, columns: hidden, bias }),
            down: linear("fc2", { rows: hidden, columns: inner, bias }),
            act,
          }),
        },
      )),
  };
});
