/**
 * Granite 3: Llama with factors of the embedding, the branches, the attention scores and the
 * logits.
 */
import { decoder, gatedMlp, llamaBlock, readSizes, selfAttention } from "./decoder.ts";
import { family } from "./model.ts";
import { rms } from "./parts.ts";
import { readRotary } from "./rotary.ts";

/** See the head of this file. */
export const granite = family(["granite"], (c) => {
  const sizes = readSizes(c, {
    vocab: 32000,
    hidden: 4096,
    inner: 11008,
    layers: 32,
    heads: 32,
    maxPositions: 2048,
  });
  const eps = c.eps("rms_norm_eps", 1e-6);
  const act = c.activation("hidden_act", "silu");
  const rotary = readRotary(c, sizes);
  const bias = c.flag("attention_bias", false);
  const mlpBias = c.flag("mlp_bias", false);
  const factor = { min: 1e-6, max: 1e6 };
  const times = c.number("residual_multiplier", 1, factor);
  return decoder(c, {
    sizes,
    rotary,
    final: rms("norm", eps),
    embedding: { times: c.number("embedding_multiplier", 1, factor) },
    head: { times: 1 / c.number("logits_scaling", 1, factor) },
    block: () =>
      llamaBlock(eps, {
        attention: selfAttention(sizes, {
          rotation: rotary.rotation(),
          scale: c.number("attention_multiplier", 1, factor),
          bias,
        }),
        mlp: gatedMlp(sizes, { act, bias: mlpBias }),
        times,
      }),
  });
});
