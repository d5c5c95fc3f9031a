/** Mistral: Llama with a window that every layer has (arXiv 2310.06825). */
import { decoder, gatedMlp, llamaBlock, readSizes, selfAttention } from "./decoder.ts";
import { family } from "./model.ts";
import { rms } from "./parts.ts";
import { readRotary } from "./rotary.ts";

/** See the head of this file. */
export const mistral = family(["mistral"], (c) => {
  const sizes = readSizes(c, {
    vocab: 32000,
    hidden: 4096,
    inner: 14336,
    layers: 32,
    heads: 32,
    keyValueHeads: 8,
    maxPositions: 4096 * 32,
  });
  const eps = c.eps("rms_norm_eps", 1e-6);
  const act = c.activation("hidden_act", "silu");
  const rotary = readRotary(c, sizes);
  const window = c.window("sliding_window", 4096);
  c.oneLayerType(sizes.layers, window === undefined ? "full_attention" : "sliding_attention");
  return decoder(c, {
    sizes,
    rotary,
    final: rms("norm", eps),
    block: () =>
      llamaBlock(eps, {
        attention: selfAttention(sizes, { rotation: rotary.rotation(), window }),
        mlp: gatedMlp(sizes, { act }),
      }),
  });
});
