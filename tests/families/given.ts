/** The tiny models of golden/families/: which there are, and each as a checkpoint in a folder. */
import { join } from "node:path";
import { folder } from "../run_given.ts";

/** Where the models lie; a variant, NAME.WHAT, has another config and the weights of NAME. */
export const FAMILIES = new URL("../golden/families/", import.meta.url);

/** Names of all models. */
export const MODELS = [...Deno.readDirSync(FAMILIES)].map(({ name }) => name).sort();

/** The folder that has a model's weights, which may be another's. */
export function weightsFolder(name: string): URL {
  const own = new URL(`${name}/`, FAMILIES);
  const has = [...Deno.readDirSync(own)].some(({ name }) => name === "model.safetensors");
  return has ? own : new URL(`${name.split(".")[0]}/`, FAMILIES);
}

/** A model as a checkpoint, in a folder that is gone in the end. */
export async function checkpointOf(
  name: string,
): Promise<AsyncDisposable & { readonly path: string }> {
  const made = await folder();
  const weights = new URL("model.safetensors", weightsFolder(name));
  await Deno.copyFile(weights, join(made.path, "model.safetensors"));
  await Deno.copyFile(new URL(`${name}/config.json`, FAMILIES), join(made.path, "config.json"));
  return made;
}
