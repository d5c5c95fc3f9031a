/**
 * OLMo 2 and 3: Llama without norms before its branches; their outputs are normed, and whole
 * queries and keys (arXiv 2501.00656). OLMo 3 has windows in three layers of four, whose rotary
 * embeddings are not stretched.
 */
import { decoder, gatedMlp, readSizes, selfAttention, windowOf } from "./decoder.ts";
import { family } from "./model.ts";
import { rms, sequential } from "./parts.ts";
import { readRotary, readRotaryByType } from "./rotary.ts";

/** See the head of this file. */
export const olmo2 = family(["olmo2", "olmo3"], (c) => {
  const sliding = c.text("model_type") === "olmo3";
  const sizes = readSizes(c, {
    vocab: 50304,
    hidden: 4096,
    inner: 11008,
    layers: 32,
    heads: 32,
    maxPositions: 2048,
  });
  const eps = c.eps("rms_norm_eps", 1e-5);
  const act = c.activation("hidden_act", "silu");
  const theta = 5e5;
  const rotary = sliding
    ? readRotaryByType(c, { ...sizes, theta, sliding: { theta } })
    : readRotary(c, sizes);
  const bias = c.flag("attention_bias", false);
  const window = sliding ? c.window("sliding_window", 4096) : undefined;
  const types = c.layerTypes(sizes.layers, (i) => sliding && (i + 1) % 4 !== 0);
  return decoder(c, {
    sizes,
    rotary,
    final: rms("norm", eps),
    block: (i) =>
      sequential(
        {
          name: "attention",
          part: selfAttention(sizes, {
            rotation: rotary.rotation(types[i]),
            window: windowOf(types[i]!, window),
            bias,
            qNorm: rms("self_attn.q_norm", eps),
            kNorm: rms("self_attn.k_norm", eps),
          }),
          post: rms("post_attention_layernorm", eps),
        },
        {
          name: "mlp",
          part: gatedMlp(sizes, { act }),
          post: rms("post_feedforward_layernorm", eps),
        },
      ),
  });
});
