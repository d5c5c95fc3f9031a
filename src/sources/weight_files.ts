/** Which files of a folder hold the weights. */
import { CheckpointError, quote } from "../errors.ts";
import type { ReadableDisk } from "../io/disk.ts";
import { INDEX_LIMIT, parseIndex } from "./shard_index.ts";
import { size } from "../size.ts";

const SHARD = /^(.*)[-_](\d{5,6})-of-(\d{5,6})\.safetensors$/;
const MAX_SHARDS = 10_000;

/** What other tools leave in place of safetensors, and what to do about it. */
const OTHERS: readonly (readonly [pattern: RegExp, what: string])[] = [
  [
    /\.(?:bin|pt|pth|ckpt|pkl)$/i,
    "Pickles may run code when they are opened, so Sluice never does: load the model with transformers and " +
    "save_pretrained() it, which writes safetensors",
  ],
  [/\.gguf$/i, "Give the safetensors checkpoint that the GGUF file was made from"],
  [/\.onnx$/i, "Give the safetensors checkpoint that the ONNX file was made from"],
  [/\.(?:h5|keras|msgpack)$/i, "Convert the weights to safetensors first"],
];

/** The weight files of a folder. */
export interface Weights {
  /** File names, sorted. */
  readonly names: readonly string[];
  /** The shard of each tensor, when there is an index. */
  readonly index: ReadonlyMap<string, string> | undefined;
}

/**
 * Choose a folder's weight files: `model.safetensors` alone if it is there (as transformers does),
 * else those of the index, else all `*.safetensors` (but `consolidated*`, a second copy under other
 * names, when there are others).
 *
 * @throws {CheckpointError} there are none, several indexes, or shards are missing.
 */
export async function chooseWeights(
  disk: ReadableDisk,
  folder: string,
  label: string,
): Promise<Weights> {
  const names = await disk.list(folder);
  const refuse = (found: string): never => {
    throw new CheckpointError(`Cannot open the checkpoint ${quote(label)}: ${found}`, {
      file: label,
    });
  };
  const chosen = await choose();
  for (const name of chosen.names) {
    const kind = (await disk.stat(`${folder}/${name}`))?.kind;
    if (kind === "file") continue;
    refuse(
      kind === undefined
        ? `${quote(name)} is a link that leads nowhere. Download the file again.`
        : `${quote(name)} is not a file.`,
    );
  }
  return chosen;

  async function choose(): Promise<Weights> {
    if (names.includes("model.safetensors")) {
      return { names: ["model.safetensors"], index: undefined };
    }
    const indexes = names.filter((name) => name.endsWith(".safetensors.index.json"));
    const index = indexes.find((name) => name === "model.safetensors.index.json") ?? indexes[0];
    if (index === undefined) return { names: withoutIndex(), index: undefined };
    if (indexes.length > 1 && index !== "model.safetensors.index.json") {
      refuse(`it has ${indexes.length} indexes (${some(indexes)}). Leave one of them.`);
    }
    const shardOf = parseIndex(await readIndex(disk, folder, index), index);
    const shards = [...new Set(shardOf.values())].sort();
    if (shards.length > MAX_SHARDS) {
      refuse(`its index names ${shards.length} shards; ${MAX_SHARDS} are accepted.`);
    }
    const missing = shards.filter((name) => !names.includes(name));
    if (missing.length > 0) {
      refuse(
        `${quote(index)} names ${missing.length} of ${shards.length} shards that are not in the ` +
          `folder (${some(missing)}). Download them.`,
      );
    }
    return { names: shards, index: shardOf };
  }

  function withoutIndex(): string[] {
    const all = names.filter((name) => name.endsWith(".safetensors") && !name.startsWith("."));
    const others = all.filter((name) => !name.startsWith("consolidated"));
    const found = others.length > 0 ? others : all;
    if (found.length === 0) refuse(describeOthers(names));
    if (found.length > MAX_SHARDS) {
      refuse(`it has ${found.length} safetensors files; ${MAX_SHARDS} are accepted.`);
    }
    checkComplete(found);
    return found;
  }

  /** Files named as shards must be all of their set. */
  function checkComplete(found: readonly string[]): void {
    const sets = new Map<string, { stem: string; total: number; parts: Set<number> }>();
    for (const name of found) {
      const [, stem, part, total] = SHARD.exec(name) ?? [];
      if (stem === undefined) continue;
      const set = sets.getOrInsert(`${stem}/${total}`, {
        stem,
        total: Number(total),
        parts: new Set(),
      });
      set.parts.add(Number(part));
    }
    for (const { stem, total, parts } of sets.values()) {
      let missing = 1;
      while (parts.has(missing)) missing++;
      if (missing > total && parts.size === total) continue;
      refuse(
        `it has ${parts.size} of the ${total} shards named ${
          quote(`${stem}-…-of-…`)
        }, and no index; ` +
          `number ${missing} is the first that is missing. Download the others.`,
      );
    }
  }
}

async function readIndex(disk: ReadableDisk, folder: string, file: string): Promise<Uint8Array> {
  const found = await disk.stat(`${folder}/${file}`);
  if (found?.kind !== "file" || found.size > INDEX_LIMIT) {
    throw new CheckpointError(
      found?.kind === "file"
        ? `Cannot read ${quote(file)}: it has ${size(found.size)}, more than the ${
          size(INDEX_LIMIT)
        } that are accepted.`
        : `Cannot read ${quote(file)}: it is not a file.`,
      { file },
    );
  }
  await using reader = await disk.open(`${folder}/${file}`);
  return await reader.read(0, reader.size);
}

function describeOthers(names: readonly string[]): string {
  for (const [pattern, advice] of OTHERS) {
    const found = names.filter((name) => pattern.test(name));
    if (found.length > 0) {
      return `it has no safetensors file, but ${some(found)}. ${advice}.`;
    }
  }
  return names.length === 0
    ? "the folder is empty."
    : `it has no safetensors file, only ${some(names)}. Give the folder that holds the weights.`;
}

/** The first few of many names. */
function some(names: readonly string[]): string {
  const shown = names.slice(0, 3).map(quote).join(", ");
  return names.length > 3 ? `${shown} and ${names.length - 3} more` : shown;
}
