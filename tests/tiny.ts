/**
 * Small checkpoints made in the test: random Llamas, a convolutional network, anything by a list of
 * tensors.
 */
import { join } from "node:path";
import { layoutFile } from "../src/containers/safetensors.ts";
import { bytesFrom } from "../src/number.ts";
import type { TensorSource } from "../src/source.ts";
import { byteLength, type TensorInfo } from "../src/tensor.ts";

/** Deterministic uniform numbers in [−1, 1). */
export function randoms(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = Math.imul(state, 1664525) + 1013904223 | 0;
    return (state >>> 8) / 2 ** 23 - 1;
  };
}

/** Bytes of a tensor of small random values. */
export function randomBytes(info: TensorInfo, next: () => number): Uint8Array<ArrayBuffer> {
  const count = info.shape.reduce((n, size) => n * size, 1);
  const values = Float32Array.from({ length: count }, () => next() * 0.2);
  switch (info.dtype) {
    case "f32":
      return new Uint8Array(values.buffer);
    case "f16":
      return new Uint8Array(Float16Array.from(values).buffer);
    case "bf16": {
      const halves = new Uint16Array(values.buffer);
      return new Uint8Array(Uint16Array.from(values, (_, i) => halves[2 * i + 1]!).buffer);
    }
    default:
      return Uint8Array.from({ length: byteLength(info) }, (_, i) => i & 255);
  }
}

/** A checkpoint of these tensors in a new folder; `change` may alter a tensor's bytes. */
export async function makeCheckpoint(
  tensors: readonly TensorInfo[],
  { config, change, seed = 1 }: {
    config?: Readonly<Record<string, unknown>>;
    change?: (name: string, bytes: Uint8Array<ArrayBuffer>) => void;
    seed?: number;
  } = {},
): Promise<string> {
  const folder = await Deno.makeTempDir();
  const layout = layoutFile(tensors, { format: "pt" });
  const file = new Uint8Array(layout.size);
  file.set(layout.head);
  const next = randoms(seed);
  for (const tensor of layout.tensors) {
    const bytes = randomBytes(tensor, next);
    change?.(tensor.name, bytes);
    file.set(bytes, tensor.begin);
  }
  await Deno.writeFile(join(folder, "model.safetensors"), file);
  if (config) await Deno.writeTextFile(join(folder, "config.json"), JSON.stringify(config));
  return folder;
}

/** The config of a Llama of two blocks. */
export const TINY_CONFIG = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: 96,
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  rope_theta: 10000.0,
  hidden_act: "silu",
  tie_word_embeddings: false,
  torch_dtype: "bfloat16",
};

/** The tensors of a Llama of two blocks, or so many. */
export function tinyTensors(
  dtype: "bf16" | "f16" | "f32" = "bf16",
  { tied = false, blocks = 2 } = {},
): TensorInfo[] {
  const tensor = (name: string, ...shape: number[]): TensorInfo => ({ name, dtype, shape });
  return [
    tensor("model.embed_tokens.weight", 96, 64),
    ...Array.from({ length: blocks }).flatMap((_, i) => {
      const block = `model.layers.${i}`;
      return [
        tensor(`${block}.input_layernorm.weight`, 64),
        tensor(`${block}.self_attn.q_proj.weight`, 64, 64),
        tensor(`${block}.self_attn.k_proj.weight`, 32, 64),
        tensor(`${block}.self_attn.v_proj.weight`, 32, 64),
        tensor(`${block}.self_attn.o_proj.weight`, 64, 64),
        tensor(`${block}.post_attention_layernorm.weight`, 64),
        tensor(`${block}.mlp.gate_proj.weight`, 128, 64),
        tensor(`${block}.mlp.up_proj.weight`, 128, 64),
        tensor(`${block}.mlp.down_proj.weight`, 64, 128),
      ];
    }),
    tensor("model.norm.weight", 64),
    ...(tied ? [] : [tensor("lm_head.weight", 96, 64)]),
  ];
}

/**
 * Give `makeCheckpoint` this to have norms near 1, with channels that are louder than others, so
 * that hidden states depend on every weight.
 */
export function livelyNorms(dtype: "bf16" | "f32"): (name: string, bytes: Uint8Array) => void {
  return (name, bytes) => {
    if (!name.includes("norm")) return;
    const next = randoms(name.length);
    const size = dtype === "f32" ? 4 : 2;
    const values = Float32Array.from({ length: bytes.length / size }, () => Math.exp(1.5 * next()));
    bytes.set(bytesFrom(dtype, values));
  };
}

/** The tensors of a small residual network: 4-D convolutions, batch norms, a classifier. */
export function convolutionalTensors(): TensorInfo[] {
  const tensor = (name: string, ...shape: number[]): TensorInfo => ({ name, dtype: "f32", shape });
  return [
    tensor("conv1.weight", 16, 3, 7, 7),
    tensor("bn1.weight", 16),
    tensor("bn1.bias", 16),
    tensor("bn1.running_mean", 16),
    { name: "bn1.num_batches_tracked", dtype: "i64", shape: [] },
    tensor("layer1.0.conv1.weight", 32, 16, 3, 3),
    tensor("layer1.0.downsample.0.weight", 32, 16, 1, 1),
    tensor("fc.weight", 10, 32),
    tensor("fc.bias", 10),
  ];
}

/** A source that has nothing but files. */
export function filesOnly(
  files: Readonly<Record<string, string>>,
): Pick<TensorSource, "label" | "files" | "readFile"> {
  return {
    label: "a test",
    files: new Map(
      Object.entries(files).map(([path, { length }]) => [path, { path, size: length }]),
    ),
    readFile: (path) => Promise.resolve(new TextEncoder().encode(files[path])),
  };
}
