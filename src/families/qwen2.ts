/**
 * Qwen 2, 2.5 and 3, and what was distilled into them: Llama with biases of q, k and v (arXiv
 * 2407.10671); in Qwen 3 queries and keys are normed head by head instead (arXiv 2505.09388).
 */
import { decoder, gatedMlp, llamaBlock, readSizes, selfAttention, windowOf } from "./decoder.ts";
import { family } from "./model.ts";
import { rms } from "./parts.ts";
import { readRotary } from "./rotary.ts";

/** See the head of this file. */
export const qwen2 = family(["qwen2", "qwen3"], (c) => {
  const third = c.text("model_type") === "qwen3";
  const sizes = readSizes(c, {
    vocab: 151936,
    hidden: 4096,
    inner: 22016,
    layers: 32,
    heads: 32,
    keyValueHeads: 32,
    ...(third ? { headDim: 128 } : {}),
    maxPositions: 32768,
  });
  const eps = c.eps("rms_norm_eps", 1e-6);
  const act = c.activation("hidden_act", "silu");
  const rotary = readRotary(c, sizes);
  const window = c.flag("use_sliding_window", false) ? c.window("sliding_window", 4096) : undefined;
  const first = c.int("max_window_layers", 28, { min: 0 });
  const types = c.layerTypes(sizes.layers, (i) => window !== undefined && i >= first);
  const perHead = { perHead: sizes.headDim };
  const own = third
    ? {
      bias: c.flag("attention_bias", false),
      qNorm: rms("self_attn.q_norm", eps, perHead),
      kNorm: rms("self_attn.k_norm", eps, perHead),
    }
    : { bias: true, outBias: false };
  return decoder(c, {
    sizes,
    rotary,
    final: rms("norm", eps),
    block: (i) =>
      llamaBlock(eps, {
        attention: selfAttention(sizes, {
          rotation: rotary.rotation(types[i]),
          window: windowOf(types[i]!, window),
          ...own,
        }),
        mlp: gatedMlp(sizes, { act }),
      }),
  });
});
