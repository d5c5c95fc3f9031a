/**
 * GLM-4-0414 and GLM-Z1: norms before and after each branch, adjacent values of half a head turned,
 * gate and up in one matrix.
 */
import { decoder, gatedMlp, readSizes, selfAttention } from "./decoder.ts";
import { family } from "./model.ts";
import { rms, sequential } from "./parts.ts";
import { readRotary } from "./rotary.ts";

/** See the head of this file. */
export const glm4 = family(["glm4"], (c) => {
  const sizes = readSizes(c, {
    vocab: 151552,
    hidden: 4096,
    inner: 13696,
    layers: 40,
    heads: 32,
    keyValueHeads: 2,
    headDim: 128,
    maxPositions: 131072,
  });
  const eps = c.eps("rms_norm_eps", 1.5625e-7);
  const act = c.activation("hidden_act", "silu");
  const rotary = readRotary(c, { ...sizes, partial: 0.5 });
  const bias = c.flag("attention_bias", true);
  return decoder(c, {
    sizes,
    rotary,
    final: rms("norm", eps),
    block: () =>
      sequential(
        {
          name: "attention",
          pre: rms("input_layernorm", eps),
          part: selfAttention(sizes, {
            rotation: rotary.rotation(),
            pairs: "adjacent",
            bias,
            outBias: false,
          }),
          post: rms("post_self_attn_layernorm", eps),
        },
        {
          name: "mlp",
          pre: rms("post_attention_layernorm", eps),
          part: gatedMlp(sizes, { act, together: "gate_up_proj" }),
          post: rms("post_mlp_layernorm", eps),
        },
      ),
  });
});
