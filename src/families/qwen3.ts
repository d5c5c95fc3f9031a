/** Qwen 3: Llama whose queries and keys are normed head by head (arXiv 2505.09388). */
import { decoder, gatedMlp, readSizes, selfAttention, windowOf } from "./decoder.ts";
import { family } from "./model.ts";
import { rms, sequential } from "./parts.ts";
import { readRotary } from "./rotary.ts";

/** See the head of this file. */
export const qwen3 = family(["qwen3"], (c) => {
  const sizes = readSizes(c, {
    vocab: 151936,
    hidden: 4096,
    inner: 22016,
    layers: 32,
    heads: 32,
    keyValueHeads: 32,
    headDim: 128,
    maxPositions: 32768,
  });
  const eps = c.eps("rms_norm_eps", 1e-6);
  const act = c.activation("hidden_act", "silu");
  const rotary = readRotary(c, sizes);
  const bias = c.flag("attention_bias", false);
  const window = c.flag("use_sliding_window", false) ? c.window("sliding_window", 4096) : undefined;
  const first = c.int("max_window_layers", 28, { min: 0 });
  const types = c.layerTypes(sizes.layers, (i) => window !== undefined && i >= first);
  const perHead = { perHead: sizes.headDim };
  return decoder(c, {
    sizes,
    rotary,
    final: rms("norm", eps),
    block: (i) =>
      sequential(
        {
          name: "attention",
          pre: rms("input_layernorm", eps),
          part: selfAttention(sizes, {
            rotation: rotary.rotation(types[i]),
            window: windowOf(types[i]!, window),
            bias,
            qNorm: rms("self_attn.q_norm", eps, perHead),
            kNorm: rms("self_attn.k_norm", eps, perHead),
          }),
        },
        {
          name: "mlp",
          pre: rms("post_attention_layernorm", eps),
          part: gatedMlp(sizes, { act }),
        },
      ),
  });
});
