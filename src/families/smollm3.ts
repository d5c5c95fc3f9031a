/**
 * SmolLM3: Llama, but some layers do not turn queries and keys (`no_rope_layers`), and these may
 * see a window only.
 */
import { decoder, gatedMlp, llamaBlock, readSizes, selfAttention, windowOf } from "./decoder.ts";
import { family } from "./model.ts";
import { rms } from "./parts.ts";
import { readRotary } from "./rotary.ts";

/** See the head of this file. */
export const smollm3 = family(["smollm3"], (c) => {
  const sizes = readSizes(c, {
    vocab: 128256,
    hidden: 2048,
    inner: 11008,
    layers: 36,
    heads: 16,
    keyValueHeads: 4,
    maxPositions: 32768,
  });
  const eps = c.eps("rms_norm_eps", 1e-6);
  const act = c.activation("hidden_act", "silu");
  const rotary = readRotary(c, { ...sizes, theta: 2e6 });
  const bias = c.flag("attention_bias", false);
  const mlpBias = c.flag("mlp_bias", false);
  const interval = c.int("no_rope_layer_interval", 4);
  const turned = (c.config.no_rope_layers ?? undefined) === undefined
    ? Array.from({ length: sizes.layers }, (_, i) => (i + 1) % interval === 0 ? 0 : 1)
    : c.numbers("no_rope_layers", sizes.layers, { min: 0, max: 1 });
  const window = c.flag("use_sliding_window", false) ? c.intIfAny("sliding_window") : undefined;
  const types = c.layerTypes(sizes.layers, (i) => window !== undefined && turned[i] === 0);
  return decoder(c, {
    sizes,
    rotary,
    final: rms("norm", eps),
    tied: true,
    block: (i) =>
      llamaBlock(eps, {
        attention: selfAttention(sizes, {
          rotation: turned[i] === 0 ? undefined : rotary.rotation(types[i]),
          window: windowOf(types[i]!, window),
          bias,
        }),
        mlp: gatedMlp(sizes, { act, bias: mlpBias }),
      }),
  });
});
