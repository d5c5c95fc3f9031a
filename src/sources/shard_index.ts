/**
 * The index of a sharded checkpoint, `model.safetensors.index.json`: which file holds which tensor.
 * Pure; trusts nothing in it.
 */
import { JsonReader } from "../containers/json_reader.ts";
import { quote } from "../errors.ts";
import { checkFileName } from "../io/names.ts";

/** Bytes an index may have: ten times those of the largest known. */
export const INDEX_LIMIT = 100_000_000;
const MAX_TENSORS = 2_000_000;

/**
 * Read `weight_map`.
 *
 * @param bytes the whole index
 * @param file its name, for messages
 * @returns the file name of each tensor's shard; each is a plain name that ends in `.safetensors`
 * @throws {CheckpointError} it is not strict JSON, has no `weight_map`, or a shard's name could
 * lead out of the folder.
 */
export function parseIndex(bytes: Uint8Array, file: string): Map<string, string> {
  const json = new JsonReader(bytes, { file, what: "it" });
  let shards: Map<string, string> | undefined;
  for (const key of json.keys("the index")) {
    if (key === "weight_map") shards = readWeightMap(json);
    else json.skip();
  }
  json.end();
  if (!shards) return json.fail("has no “weight_map”, which says where each tensor is");
  if (shards.size === 0) return json.fail("has an empty “weight_map”");
  return shards;
}

function readWeightMap(json: JsonReader): Map<string, string> {
  const shards = new Map<string, string>();
  const checked = new Set<string>();
  for (const tensor of json.keys("“weight_map”")) {
    const shard = json.string("the name of a shard");
    if (!checked.has(shard)) {
      const reason = checkFileName(shard);
      if (reason !== true) json.fail(`puts tensor ${quote(tensor)} in ${quote(shard)}, ${reason}`);
      if (!shard.endsWith(".safetensors")) {
        json.fail(
          `puts tensor ${quote(tensor)} in ${quote(shard)}, which is no safetensors file`,
        );
      }
      checked.add(shard);
    }
    if (shards.size === MAX_TENSORS) json.fail(`has more than ${MAX_TENSORS} tensors`);
    shards.set(tensor, shard);
  }
  return shards;
}
