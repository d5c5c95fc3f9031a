/**
 * Gemma 2 and the text model of Gemma 3 (arXiv 2408.00118, 2503.19786): norms that store w − 1,
 * before and after each branch; windows in some layers; embeddings times √C. Gemma 2 caps scores
 * and logits; Gemma 3 norms queries and keys, and has a rotary table for each kind of layer.
 */
import { decoder, gatedMlp, readSizes, selfAttention, windowOf } from "./decoder.ts";
import type { Norm } from "../family.ts";
import { family } from "./model.ts";
import { rms, sequential } from "./parts.ts";
import { readRotary, readRotaryByType } from "./rotary.ts";

/** See the head of this file. */
export const gemma = family(["gemma2", "gemma3_text"], (c) => {
  const third = c.text("model_type") === "gemma3_text";
  const sizes = readSizes(c, {
    vocab: third ? 262208 : 256000,
    hidden: 2304,
    inner: 9216,
    layers: 26,
    heads: 8,
    keyValueHeads: 4,
    headDim: 256,
    maxPositions: third ? 131072 : 8192,
  });
  const eps = c.eps("rms_norm_eps", 1e-6);
  const act = c.activation("hidden_activation", "gelu_pytorch_tanh");
  const rotary = third
    ? readRotaryByType(c, {
      ...sizes,
      theta: 1e6,
      sliding: { theta: 1e4, key: "rope_local_base_freq" },
    })
    : readRotary(c, sizes);
  const bias = c.flag("attention_bias", false);
  const window = c.window("sliding_window", 4096);
  const pattern = third ? c.int("sliding_window_pattern", 6) : 2;
  const types = c.layerTypes(sizes.layers, (i) => (i + 1) % pattern !== 0);
  const scalar = c.number("query_pre_attn_scalar", 256, { min: 1e-3, max: 1e6 });
  const softcap = c.softcap("attn_logit_softcapping", third ? undefined : 50);
  if (c.flag("use_bidirectional_attention", false)) {
    c.refuse("use_bidirectional_attention", "false");
  }
  const norm = (module: string, more: Partial<Norm> = {}) =>
    rms(module, eps, { plusOne: true, ...more });
  const perHead = { perHead: sizes.headDim };
  return decoder(c, {
    sizes,
    rotary,
    final: norm("norm"),
    tied: true,
    embedding: { times: Math.sqrt(sizes.hidden) },
    head: { softcap: c.softcap("final_logit_softcapping", third ? undefined : 30) },
    block: (i) =>
      sequential(
        {
          name: "attention",
          pre: norm("input_layernorm"),
          part: selfAttention(sizes, {
            rotation: rotary.rotation(types[i]),
            window: windowOf(types[i]!, window),
            scale: 1 / Math.sqrt(scalar),
            bias,
            ...(third
              ? {
                // Gemma 3's config has a cap of scores too, which transformers does not apply.
                qNorm: norm("self_attn.q_norm", perHead),
                kNorm: norm("self_attn.k_norm", perHead),
              }
              : { softcap }),
          }),
          post: norm("post_attention_layernorm"),
        },
        {
          name: "mlp",
          pre: norm("pre_feedforward_layernorm"),
          part: gatedMlp(sizes, { act }),
          post: norm("post_feedforward_layernorm"),
        },
      ),
  });
});
