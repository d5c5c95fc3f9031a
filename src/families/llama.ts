/**
 * Llama 1 to 3.x, SmolLM2, TinyLlama, Yi and most of their kin: RMSNorm, rotary grouped-query
 * attention, SwiGLU (arXiv 2302.13971). The arithmetic is that of transformers' `LlamaForCausalLM`
 * in float32.
 */
import { decoder, gatedMlp, llamaBlock, readSizes, selfAttention } from "./decoder.ts";
import { family } from "./model.ts";
import { rms } from "./parts.ts";
import { readRotary } from "./rotary.ts";

/** See the head of this file. */
export const llama = family(["llama"], (c) => {
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
  return decoder(c, {
    sizes,
    rotary,
    final: rms("norm", eps),
    block: () =>
      llamaBlock(eps, {
        attention: selfAttention(sizes, { rotation: rotary.rotation(), bias }),
        mlp: gatedMlp(sizes, { act, bias: mlpBias }),
      }),
  });
});
