/** A plan is data: written as JSON and read again it is the same, and makes the same bytes. */
import assert from "node:assert/strict";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { plan } from "../src/plan.ts";
import { requestOf } from "../src/plan/planned.ts";
import { parsePlan, planJson } from "../src/plan/saved.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import { run } from "../src/run.ts";
import { openFolderSink } from "../src/sinks/folder.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { folder, tinyWindows } from "./run_given.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

const WINDOWS = { windows: tinyWindows(4, 24), seqLen: 24, stateBudget: Infinity };

for (
  const options of [
    { scheme: "W4A16", "group-size": 32 },
    { scheme: "NF4" },
    { scheme: "W8A8", method: "smoothquant+gptq", activations: "static" },
    { scheme: "W4A16", "group-size": 32, format: "gptq", method: "rtn" },
    { scheme: "LLM_INT8", threshold: 6 },
  ]
) {
  Deno.test(`a plan of ${JSON.stringify(options)} is the same when it is read again`, async () => {
    await using place = await folder();
    const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
    await using backend = await openWasm({ threads: 1 });
    await using source = await openCheckpoint(model);
    const recipe = recipeFromOptions(options);
    const request = requestOf(WINDOWS);
    const made = plan(recipe, source, { device: backend, calibration: request });
    const read = (await parsePlan(await planJson(made), "plan.json")).of(source);
    // The graph is made of the checkpoint again; functions are equal to themselves alone.
    const withoutModel = ({ model, ...others }: typeof made) => ({
      ...others,
      model: JSON.stringify(model),
    });
    assert.deepEqual(withoutModel(read), withoutModel(made));
    const bytesOf = async (which: typeof made, name: string) => {
      const out = `${place.path}/${name}`;
      await using sink = await openFolderSink(out);
      await run(which, { source, backend, sink, calibration: WINDOWS });
      return await Deno.readFile(`${out}/model.safetensors`);
    };
    assert.deepEqual(await bytesOf(read, "read"), await bytesOf(made, "made"));
    await Deno.remove(model, { recursive: true });
  });
}

Deno.test("a plan that was changed, or is of something else, is refused", async () => {
  const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
  const other = await makeCheckpoint(tinyTensors("f32"), { config: TINY_CONFIG });
  await using backend = await openWasm({ threads: 1 });
  await using source = await openCheckpoint(model);
  const text = await planJson(
    plan(recipeFromOptions({ scheme: "NF4" }), source, { device: backend }),
  );
  const refused = async (text: string, says: RegExp, from = source) =>
    await assert.rejects(
      async () => (await parsePlan(text, "plan.json")).of(from),
      { name: "RequestError", message: says },
    );
  await refused("{", /Cannot use the plan "plan.json": it is not what `planJson` writes/);
  await refused(text.replace('"plan":1', '"plan":2'), /it is not what `planJson` writes/);
  await refused(text.replace(/"version":"[^"]*"/, '"version":"9.9.9"'), /of version 9\.9\.9, and/);
  await refused(text.replace("model.safetensors", "../model.safetensor"), /it was changed/);
  await using stranger = await openCheckpoint(other);
  await refused(text, /it is of .*, which has other headers than /, stranger);
  for (const path of [model, other]) await Deno.remove(path, { recursive: true });
});
