/**
 * A Llama of real sizes and made-up weights, for benchmarks that must not download one: its bytes
 * are made when they are read, so that it takes neither disk nor memory.
 */
import type { TensorSource } from "../../src/source.ts";
import { byteLength, elementCount, type TensorInfo } from "../../src/tensor.ts";
import { gaussian } from "../conformance/given.ts";

/** Sizes of a Llama's block. */
export interface BlockSizes {
  readonly hidden: number;
  readonly intermediate: number;
  readonly heads: number;
  readonly keyHeads: number;
}

/** Sizes of models that people have. */
export const SIZES = {
  "llama-8b": { hidden: 4096, intermediate: 14336, heads: 32, keyHeads: 8 },
  "llama-70b": { hidden: 8192, intermediate: 28672, heads: 64, keyHeads: 8 },
  "smollm2-135m": { hidden: 576, intermediate: 1536, heads: 9, keyHeads: 3 },
} as const satisfies Readonly<Record<string, BlockSizes>>;

const VOCABULARY = 4096;
/** Values that weights repeat: a prime number of them, so that no two rows are alike. */
const TABLE = 1_000_003;

/** The checkpoint, in bf16. */
export function blockModel(
  { hidden, intermediate, heads, keyHeads }: BlockSizes,
  { blocks }: { readonly blocks: number },
): TensorSource {
  const width = hidden / heads;
  const matrices: Readonly<Record<string, readonly [number, number]>> = {
    "self_attn.q_proj": [hidden, hidden],
    "self_attn.k_proj": [keyHeads * width, hidden],
    "self_attn.v_proj": [keyHeads * width, hidden],
    "self_attn.o_proj": [hidden, hidden],
    "mlp.gate_proj": [intermediate, hidden],
    "mlp.up_proj": [intermediate, hidden],
    "mlp.down_proj": [hidden, intermediate],
  };
  const infos: TensorInfo[] = [];
  const add = (name: string, ...shape: number[]) => infos.push({ name, dtype: "bf16", shape });
  add("model.embed_tokens.weight", VOCABULARY, hidden);
  for (let block = 0; block < blocks; block++) {
    const prefix = `model.layers.${block}`;
    for (const [name, shape] of Object.entries(matrices)) {
      add(`${prefix}.${name}.weight`, ...shape);
    }
    add(`${prefix}.input_layernorm.weight`, hidden);
    add(`${prefix}.post_attention_layernorm.weight`, hidden);
  }
  add("model.norm.weight", hidden);
  add("lm_head.weight", VOCABULARY, hidden);
  const tensors = new Map(infos.map((info) => [info.name, info]));
  const starts = new Map(infos.map(({ name }, i) => [name, i * 7919 % TABLE]));
  const config = {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_size: hidden,
    intermediate_size: intermediate,
    num_hidden_layers: blocks,
    num_attention_heads: heads,
    num_key_value_heads: keyHeads,
    head_dim: width,
    vocab_size: VOCABULARY,
    max_position_embeddings: 8192,
    rms_norm_eps: 1e-5,
    rope_theta: 500000,
    hidden_act: "silu",
    tie_word_embeddings: false,
    torch_dtype: "bfloat16",
  };
  const values = gaussian(TABLE, 1, 0.02);
  const table = Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16);
  return {
    label: "made up",
    id: `made-up-${hidden}-${intermediate}-${blocks}`,
    tensors,
    fileOf: new Map(infos.map(({ name }) => [name, "model.safetensors"])),
    files: new Map(),
    config,
    configText: JSON.stringify(config),
    read(name, rows) {
      const info = tensors.get(name);
      if (!info) throw new RangeError(`No tensor "${name}".`);
      const columns = elementCount(info.shape.slice(1));
      const [from, to] = rows ? [rows.from, rows.to] : [0, info.shape[0]!];
      const out = new Uint16Array((to - from) * columns);
      if (info.shape.length === 1) out.fill(0x3f80);
      else {
        let place = (starts.get(name)! + from * columns) % TABLE;
        for (let at = 0; at < out.length;) {
          const part = table.subarray(place, place + out.length - at);
          out.set(part, at);
          at += part.length;
          place = 0;
        }
      }
      return Promise.resolve(new Uint8Array(out.buffer));
    },
    readFile: (path) => Promise.reject(new RangeError(`There is no file ${path}.`)),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

/** Windows of tokens that such a model takes, the same ones each time. */
export function tokenWindows(
  { count, seqLen }: { readonly count: number; readonly seqLen: number },
): Uint32Array<ArrayBuffer>[] {
  let state = 1;
  const next = () => state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Array.from(
    { length: count },
    () => Uint32Array.from({ length: seqLen }, () => (next() >>> 8) % VOCABULARY),
  );
}

/** Bytes of one block's weights. */
export function blockBytes(source: TensorSource): number {
  return [...source.tensors.values()].filter(({ name }) => name.startsWith("model.layers.0."))
    .reduce((sum, info) => sum + byteLength(info), 0);
}
