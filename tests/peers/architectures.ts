/**
 * Quantizes tiny models of many architectures in every format, and notes of each what `plan`
 * refused or what the loader table promised: architectures.py then opens them.
 *
 *     deno run -A tests/peers/architectures.ts MODELS OUT
 *
 * MODELS holds a folder for each (models/tiny_models.py). Written: OUT/NAME/COLUMN/, a checkpoint,
 * for each column that is not refused, and OUT/verdicts.json.
 */
import {
  open,
  openBackend,
  openFolderSink,
  parseRecipe,
  plan,
  requestOf,
  run,
  type TensorSource,
  UnsupportedError,
} from "../../mod.ts";
import { architectureOf } from "../../src/formats/architectures.ts";
import { modelIfAny } from "../../src/plan/model.ts";

/** What the columns of the table ask for: rounding to nearest unless a method is named. */
const COLUMNS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  "F16": { scheme: "F16" },
  "W8A16@plain": { scheme: "W8A16", format: "plain" },
  "W4A16": { scheme: "W4A16", group_size: 32 },
  "W4A16_ASYM": { scheme: "W4A16_ASYM", group_size: 32 },
  // Of models that Sluice can run: calibrated, and measured in the same pass.
  "W4A16:auto": { scheme: "W4A16", group_size: 32, method: "auto" },
  "W8A8:smoothquant": { scheme: "W8A8", method: "smoothquant" },
  // Of models that store one.
  "W8A16+head": { scheme: "W8A16" },
  "NF4+head": { scheme: "NF4" },
  "LLM_INT8+head": { scheme: "LLM_INT8" },
  "W8A8": { scheme: "W8A8" },
  "FP8": { scheme: "FP8" },
  "FP8_DYNAMIC": { scheme: "FP8_DYNAMIC" },
  "NF4": { scheme: "NF4" },
  // Of architectures in which the table says no of some weights: all others.
  "NF4-some": { scheme: "NF4" },
  "LLM_INT8": { scheme: "LLM_INT8" },
  "W4A16@gptq": { scheme: "W4A16", group_size: 32, format: "gptq" },
  "W4A16@awq": { scheme: "W4A16", group_size: 32, format: "awq" },
};

/** Windows of random tokens that the tiny models know. */
function randomWindows(count: number, seed: number) {
  const windows = Array.from(
    { length: count },
    (_, w) =>
      Uint32Array.from({ length: 32 }, (_, i) => 3 + (i * 7 + w * 31 + (i * i) % seed) % 93),
  );
  return { windows, seqLen: 32, stateBudget: 1e9 };
}

const CALIBRATION = randomWindows(24, 5);
const EVALUATION = randomWindows(4, 11);

/** Patterns of the weights that transformers is known not to open in 4 bits. */
function failing(source: Pick<TensorSource, "config">): string[] {
  return (architectureOf(source)?.failures ?? []).flatMap(({ storages, of }) =>
    of && storages.includes("4-bit") ? [`re:.*${of.source}`] : []
  );
}

const [models, out] = Deno.args as [string, string];
await using device = await openBackend("wasm", { threads: 1 });
const verdicts: Record<string, Record<string, unknown>> = {};
for (const name of [...Deno.readDirSync(models)].map(({ name }) => name).sort()) {
  verdicts[name] = {};
  await Deno.mkdir(`${out}/${name}`, { recursive: true });
  for (const [column, asked] of Object.entries(COLUMNS)) {
    await using source = await open(`${models}/${name}`);
    const ignore = column === "NF4-some" ? failing(source) : [];
    const heads = ["lm_head.weight", "embed_out.weight"].filter((name) => source.tensors.has(name));
    const rules = column.endsWith("+head") ? heads.map((match) => ({ ...asked, match })) : [];
    if (/\+head|-some/.test(column) && ignore.length + rules.length === 0) continue;
    const text = JSON.stringify({ method: "rtn", ...asked, ignore, rules });
    const recipe = parseRecipe(text, column);
    const calibrated = "method" in asked;
    if (calibrated && !modelIfAny(source).model?.head) continue;
    const walks = calibrated ? { calibration: CALIBRATION, evaluation: EVALUATION } : {};
    try {
      const work = plan(recipe, source, {
        device,
        ...(calibrated ? { calibration: requestOf(CALIBRATION) } : {}),
        ...(calibrated ? { evaluation: requestOf(EVALUATION) } : {}),
      });
      await using sink = await openFolderSink(`${out}/${name}/${column}`);
      await run(work, { source, backend: device, sink, ...walks });
      verdicts[name][column] = { loaders: work.loaders };
    } catch (error) {
      if (!(error instanceof UnsupportedError)) throw error;
      verdicts[name][column] = { refused: error.message };
    }
  }
}
await Deno.writeTextFile(`${out}/verdicts.json`, JSON.stringify(verdicts, undefined, 1));
