/**
 * Phi-3, Phi-3.5 and Phi-4: Llama with q, k, v in one matrix, gate and up in another, and LongRoPE
 * (arXiv 2404.14219).
 */
import { decoder, gatedMlp, llamaBlock, readSizes, selfAttention } from "./decoder.ts";
import { family } from "./model.ts";
import { rms } from "./parts.ts";
import { ConfigReader } from "./read.ts";
import { readRotary } from "./rotary.ts";

/** See the head of this file. */
export const phi3 = family(["phi3"], (given) => {
  const original = given.int("original_max_position_embeddings", 4096);
  const c = new ConfigReader(
    { ...given.config, original_max_position_embeddings: original },
    given.has,
  );
  const sizes = readSizes(c, {
    vocab: 32064,
    hidden: 3072,
    inner: 8192,
    layers: 32,
    heads: 32,
    maxPositions: 4096,
  });
  const eps = c.eps("rms_norm_eps", 1e-5);
  const act = c.activation("hidden_act", "silu");
  const rotary = readRotary(c, { ...sizes, aliases: { su: "longrope", yarn: "longrope" } });
  const window = c.window("sliding_window", undefined);
  return decoder(c, {
    sizes,
    rotary,
    final: rms("norm", eps),
    block: () =>
      llamaBlock(eps, {
        attention: selfAttention(sizes, {
          rotation: rotary.rotation(),
          window,
          together: "qkv_proj",
        }),
        mlp: gatedMlp(sizes, { act, together: "gate_up_proj" }),
      }),
  });
});
