/**
 * Checkpoints that are larger than memory and disk, made by range: bf16 matrices of noise in shards
 * with an index. Any byte can be had at once, at the speed of a copy: tensors are windows on one
 * block of noise, each from another place.
 */
import { layoutFile } from "../../src/containers/safetensors.ts";
import type { TensorInfo } from "../../src/tensor.ts";
import { BLOCK_BYTES, type FileInput, type SyntheticFile } from "./content.ts";

/** What a synthetic checkpoint is like. Sizes are in bytes. */
export interface SyntheticOptions {
  /** Of all weights together, about: the number of tensors is rounded up. */
  readonly totalBytes: number;
  /** Of a tensor, about: rows are whole multiples of 64. 200 MB unless given. */
  readonly tensorBytes?: number;
  /** Most of a shard's weights: 5 GB unless given; at least one tensor is in each. */
  readonly shardBytes?: number;
  /** Columns of each matrix: 4096 unless given. */
  readonly columns?: number;
  /** Other numbers, other weights. */
  readonly seed?: number;
  /** Added to config.json, which says the dtype and a made-up model type. */
  readonly config?: Readonly<Record<string, unknown>>;
}

/**
 * Values in the block of noise: a prime, so that no two rows or tensors begin at the same value.
 */
const NOISE_VALUES = 1_048_573;

/**
 * The files of a checkpoint of `blocks.N.weight`, bf16 [rows, columns], normal with deviation 0.02,
 * one outlier in about 10 000.
 */
export function syntheticCheckpoint(
  {
    totalBytes,
    tensorBytes = 200_000_000,
    shardBytes = 5_000_000_000,
    columns = 4096,
    seed = 1,
    config = {},
  }: SyntheticOptions,
): Record<string, FileInput> {
  const rows = Math.max(1, Math.ceil(tensorBytes / (2 * columns * 64))) * 64;
  const bytes = rows * columns * 2;
  const count = Math.max(1, Math.ceil(totalBytes / bytes));
  const perShard = Math.max(1, Math.floor(shardBytes / bytes));
  const shards = Math.ceil(count / perShard);
  const noise = makeNoise(seed);
  const weightMap: Record<string, string> = {};
  const files: Record<string, FileInput> = {};
  for (let shard = 0; shard < shards; shard++) {
    const name = shards === 1
      ? "model.safetensors"
      : `model-${number(shard + 1)}-of-${number(shards)}.safetensors`;
    const tensors: TensorInfo[] = [];
    for (let i = shard * perShard; i < Math.min(count, (shard + 1) * perShard); i++) {
      tensors.push({ name: `blocks.${i}.weight`, dtype: "bf16", shape: [rows, columns] });
      weightMap[`blocks.${i}.weight`] = name;
    }
    files[name] = syntheticShard(tensors, noise, shard * perShard);
  }
  files["config.json"] = JSON.stringify(
    { model_type: "synthetic", torch_dtype: "bfloat16", ...config },
    null,
    2,
  );
  files["README.md"] = "---\nlicense: apache-2.0\n---\n\nNoise, made by range.\n";
  if (shards > 1) {
    files["model.safetensors.index.json"] = JSON.stringify(
      { metadata: { total_size: count * bytes }, weight_map: weightMap },
      null,
      2,
    );
  }
  return files;
}

function number(shard: number): string {
  return String(shard).padStart(5, "0");
}

function syntheticShard(
  tensors: readonly TensorInfo[],
  noise: Uint8Array<ArrayBuffer>,
  first: number,
): SyntheticFile {
  const { head, size, tensors: placed } = layoutFile(tensors);
  // 2 · 7919 · i bytes further on for the i-th tensor, so that tensors that are mixed up differ.
  const startOf = (i: number, offset: number) =>
    (offset + 15_838 * (first + i)) % (2 * NOISE_VALUES);
  return {
    size,
    read(begin, end) {
      const inside = placed.findIndex((tensor) => begin >= tensor.begin && end <= tensor.end);
      if (inside >= 0 && end - begin <= BLOCK_BYTES) {
        const start = startOf(inside, begin - placed[inside]!.begin);
        return noise.subarray(start, start + end - begin);
      }
      const bytes = new Uint8Array(end - begin);
      if (begin < head.length) bytes.set(head.subarray(begin, end));
      for (const [i, tensor] of placed.entries()) {
        const from = Math.max(begin, tensor.begin), to = Math.min(end, tensor.end);
        if (from >= to) continue;
        copyAround(
          noise,
          startOf(i, from - tensor.begin),
          bytes.subarray(from - begin, to - begin),
        );
      }
      return bytes;
    },
  };
}

/** Fill `target` from the noise, begun at `start`, from its beginning again at its end. */
function copyAround(noise: Uint8Array, start: number, target: Uint8Array): void {
  const once = noise.subarray(0, 2 * NOISE_VALUES);
  for (let done = 0, from = start; done < target.length; from = 0) {
    const part = once.subarray(from, from + target.length - done);
    target.set(part, done);
    done += part.length;
  }
}

/**
 * Normal bf16 values by Box and Muller from a linear congruence; then the first block again, so
 * that a block from anywhere is in one piece and need not be copied.
 */
function makeNoise(seed: number): Uint8Array<ArrayBuffer> {
  let state = seed | 0;
  function uniform(): number {
    state = Math.imul(state, 1664525) + 1013904223 | 0;
    return ((state >>> 8) + 0.5) / 2 ** 24;
  }
  const floats = new Float32Array(NOISE_VALUES);
  for (let i = 0; i < NOISE_VALUES; i++) {
    const outlier = uniform() < 1e-4 ? 20 : 1;
    floats[i] = 0.02 * outlier * Math.sqrt(-2 * Math.log(uniform())) *
      Math.cos(2 * Math.PI * uniform());
  }
  const halves = new Uint16Array(floats.buffer);
  const noise = new Uint8Array(2 * NOISE_VALUES + BLOCK_BYTES);
  noise.set(new Uint8Array(Uint16Array.from(floats, (_, i) => halves[2 * i + 1]!).buffer));
  noise.copyWithin(2 * NOISE_VALUES, 0, BLOCK_BYTES);
  return noise;
}
