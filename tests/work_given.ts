/** A tiny model whose plan machines share, and what one machine makes of it. */
import { join } from "node:path";
import type { Backend } from "../src/backend.ts";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { disk } from "../src/io/disk.ts";
import { plan } from "../src/plan.ts";
import { type Plan, requestOf } from "../src/plan/planned.ts";
import { recipeDocument, recipeFromOptions } from "../src/recipe.ts";
import { ingredientsOf, keyOf } from "../src/run/key.ts";
import { doneUnits } from "../src/run/worker.ts";
import type { WorkJob } from "../src/run/work_job.ts";
import type { MeetingPlace } from "../src/run/meeting_place.ts";
import { run } from "../src/run.ts";
import { openFolderSink } from "../src/sinks/folder.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import type { TensorSource } from "../src/source.ts";
import { tinyWindows } from "./run_given.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

const WINDOWS = 4;
const LENGTH = 24;

/** All files of a folder, by name. */
export async function bytesOf(folder: string): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (const name of await disk.list(folder)) {
    found.set(name, new Uint8Array(await Deno.readFile(join(folder, name))).toHex());
  }
  return found;
}

/** What machines share. */
export interface SharedJob {
  readonly made: Plan;
  readonly source: TensorSource;
  readonly backend: Backend;
  readonly inputs: {
    readonly calibration?: { windows: Uint32Array<ArrayBuffer>[]; stateBudget: number };
  };
  readonly path: string;
  readonly job: WorkJob;
  /** One machine's. */
  readonly alone: () => Promise<Map<string, string>>;
  /** Of what workers have done. */
  readonly merged: (folder: MeetingPlace, name?: string) => Promise<Map<string, string>>;
}

/** A tiny model, its plan by some options, and a folder to work in. */
export async function shared(
  options: Record<string, unknown>,
  test: (around: SharedJob) => Promise<void>,
  { blocks = 2 } = {},
): Promise<void> {
  const config = { ...TINY_CONFIG, num_hidden_layers: blocks };
  const model = await makeCheckpoint(tinyTensors("bf16", { blocks }), { config });
  const path = await Deno.makeTempDir();
  await using backend = await openWasm({ threads: 1 });
  await using source = await openCheckpoint(model);
  const isCalibrated = options.method !== "rtn";
  const calibration = { windows: tinyWindows(WINDOWS, LENGTH), stateBudget: 1e8 };
  const made = plan(recipeFromOptions(options), source, {
    device: backend,
    ...(isCalibrated ? { calibration: requestOf({ ...calibration, seqLen: LENGTH }) } : {}),
  });
  const inputs = isCalibrated ? { calibration } : {};
  const ingredients = await ingredientsOf(made, { source, backend, ...inputs });
  const job = {
    job: 1,
    key: await keyOf(ingredients),
    ingredients,
    words: ["model"],
    recipe: recipeDocument(made.recipe),
    units: made.units.map(({ name }) => name),
  } as const;
  const write = async (name: string, more: object) => {
    const out = join(path, name);
    await using sink = await openFolderSink(out);
    await run(made, { source, backend, sink, ...inputs, ...more });
    return await bytesOf(out);
  };
  await test({
    made,
    source,
    backend,
    inputs,
    path: join(path, "shared"),
    job,
    alone: () => write("alone", {}),
    merged: (folder, name = "merged") => write(name, { units: doneUnits(made, folder) }),
  });
  await Deno.remove(model, { recursive: true });
  await Deno.remove(path, { recursive: true });
}

export const RTN = { scheme: "W4A16", "group-size": 32, method: "rtn" };
export const SHARDS = { scheme: "W4A16", "group-size": 32, "calibration-shards": 4 };
export const STATIC = { scheme: "W8A8", method: "smoothquant+gptq", activations: "static" };
export const FLOAT = { scheme: "W4A16", "group-size": 32, "calibrate-on": "float" };
