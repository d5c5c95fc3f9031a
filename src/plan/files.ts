/**
 * The files of an output: shards with every offset, the index, config.json, and what travels along
 * from the source.
 */
import type { TensorSource } from "../source.ts";
import { layoutFile } from "../containers/safetensors.ts";
import type { Format } from "../format.ts";
import { sectionText, spliceConfig } from "../formats/config_json.ts";
import type { Unit } from "./tasks.ts";
import type { PlannedFile, Sidecar } from "./planned.ts";
import { byteLength, sum, type TensorInfo } from "../tensor.ts";

/**
 * Fill shards in order; the tensors one weight becomes stay together, and so do a module's weight
 * and bias.
 */
export function layoutFiles(units: readonly Unit[], maxShardSize: number): PlannedFile[] {
  const modules = Map.groupBy(
    units.flatMap(({ tasks }) => tasks).filter(({ outputs }) => outputs.length > 0),
    ({ source }) => source.name.replace(/\.(weight|bias)$/, ""),
  );
  const shards: TensorInfo[][] = [[]];
  let filled = 0;
  for (const tasks of modules.values()) {
    const tensors = tasks.flatMap(({ outputs }) => outputs);
    const bytes = sum(tensors, byteLength);
    if (filled > 0 && filled + bytes > maxShardSize) {
      shards.push([]);
      filled = 0;
    }
    shards.at(-1)!.push(...tensors);
    filled += bytes;
  }
  const number = (n: number) => String(n).padStart(5, "0");
  return shards.map((tensors, i) => ({
    path: shards.length === 1
      ? "model.safetensors"
      : `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`,
    // transformers 4 refuses metadata without a format (formats: "pt").
    ...layoutFile(tensors, { format: "pt" }),
  }));
}

/** The files beside the weights. */
export function sidecarsOf(
  source: TensorSource,
  files: readonly PlannedFile[],
  { section, format, modelDType, cast, untied }: {
    section: string | undefined;
    format: Pick<Format, "sectionFile">;
    modelDType: string;
    /** Weights have another dtype than config.json announces. */
    cast: boolean;
    /** The output head is no longer the embedding. */
    untied: boolean;
  },
): Sidecar[] {
  const made = (path: string, text: string): Sidecar => {
    const bytes = new TextEncoder().encode(text);
    return { path, size: bytes.length, bytes };
  };
  const sidecars: Sidecar[] = [];
  if (source.configText !== undefined || section !== undefined) {
    sidecars.push(
      made(
        "config.json",
        spliceConfig(source.configText, section, {
          untied,
          ...(cast ? { dtype: modelDType } : {}),
        }),
      ),
    );
  }
  if (format.sectionFile !== undefined && section !== undefined) {
    sidecars.push(made(format.sectionFile, sectionText(section)));
  }
  if (files.length > 1) {
    const entries = files.flatMap(({ path, tensors }) =>
      tensors.map(({ name }) => [name, path] as const)
    );
    entries.sort(([a], [b]) => a < b ? -1 : 1);
    const index = {
      metadata: { total_size: sum(files, ({ tensors }) => sum(tensors, byteLength)) },
      weight_map: Object.fromEntries(entries),
    };
    sidecars.push(made("model.safetensors.index.json", JSON.stringify(index, null, 2) + "\n"));
  }
  for (const { path, size } of source.files.values()) {
    if (path !== "config.json") sidecars.push({ path, size });
  }
  return sidecars;
}
