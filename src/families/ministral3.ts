/**
 * Ministral 3 and the text tower of Mistral Small 3 and its kin: Mistral whose queries grow with
 * their position, beyond the original length.
 */
import { decoder, gatedMlp, llamaBlock, readSizes, selfAttention } from "./decoder.ts";
import { family } from "./model.ts";
import { rms } from "./parts.ts";
import { ConfigReader } from "./read.ts";
import { readRotary } from "./rotary.ts";

/** What transformers takes where config.json has no rotary settings. */
const ROPE = {
  type: "yarn",
  rope_theta: 1e6,
  factor: 16,
  original_max_position_embeddings: 16384,
  beta_fast: 32,
  beta_slow: 1,
  mscale: 1,
  mscale_all_dim: 1,
  llama_4_scaling_beta: 0.1,
};

/** See the head of this file. */
export const ministral3 = family(["ministral3"], (given) => {
  const c = given.object("rope_parameters") || given.object("rope_scaling")
    ? given
    : new ConfigReader({ ...given.config, rope_parameters: ROPE }, given.has);
  const sizes = readSizes(c, {
    vocab: 131072,
    hidden: 4096,
    inner: 14336,
    layers: 34,
    heads: 32,
    keyValueHeads: 8,
    headDim: 128,
    maxPositions: 262144,
  });
  const eps = c.eps("rms_norm_eps", 1e-5);
  const act = c.activation("hidden_act", "silu");
  const rotary = readRotary(c, sizes);
  const rope = (c.object("rope_scaling") ?? c.object("rope_parameters"))!;
  const beta = rope.numberIfAny("llama_4_scaling_beta");
  const original = rope.int("original_max_position_embeddings", sizes.maxPositions);
  const window = c.window("sliding_window", undefined);
  const temperature = beta === undefined ? undefined : temperatureOf(beta, original);
  return decoder(c, {
    sizes,
    rotary,
    final: rms("norm", eps),
    block: () =>
      llamaBlock(eps, {
        attention: selfAttention(sizes, {
          rotation: rotary.rotation(),
          window,
          temperature,
        }),
        mlp: gatedMlp(sizes, { act }),
      }),
  });
});

/** 1 + β·ln(1 + ⌊position / original⌋) at each position. */
function temperatureOf(beta: number, original: number) {
  return (tokens: number): Float32Array<ArrayBuffer> =>
    Float32Array.from(
      { length: tokens },
      (_, position) => 1 + beta * Math.log(1 + Math.floor(position / original)),
    );
}
