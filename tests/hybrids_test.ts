/**
 * Weights of one kind whose input is rounded to another: what is stored of them, by which group of
 * config.json loaders find it, and what is measured of those that nothing stores.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { openNowhere } from "../src/sinks/nowhere.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { SAMPLE_MODEL } from "../src/sources/sample.ts";
import { plan } from "../src/plan.ts";
import { requestOf } from "../src/plan/planned.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import { run } from "../src/run.ts";
import { verify } from "../src/verify.ts";
import { prepareWindows } from "../src/windows.ts";
import { sluice } from "./cli/host.ts";
import { folder, quantize } from "./run_given.ts";

const GROUPS = { "group-size": 64, method: "rtn" };

for (
  const [options, activations, told] of [
    [{ scheme: "W4A8" }, "int", undefined],
    [{ scheme: "W4AFP8" }, "float", "pack-quantized"],
    [{ scheme: "W3A16", activations: "int8" }, "int", "pack-quantized"],
    [{ scheme: "W4A16_ASYM", activations: "fp8" }, "float", "pack-quantized"],
  ] as const
) {
  const name = Object.values(options).join(" with ");
  Deno.test(`${name} is stored with its activations, read back, and its loaders know why`, async () => {
    await using into = await folder();
    await using backend = await openWasm({ threads: 2 });
    await using source = await openCheckpoint(SAMPLE_MODEL);
    const { out } = await quantize(SAMPLE_MODEL.pathname, { ...options, ...GROUPS }, {
      backend,
      into: into.path,
    });
    const config = JSON.parse(await Deno.readTextFile(join(out, "config.json")));
    const { group_0: group } = config.quantization_config.config_groups;
    assert.deepEqual(group.input_activations, {
      ...{ num_bits: 8, type: activations, symmetric: true, strategy: "token", dynamic: true },
    });
    // Where compressed-tensors would not expect words.
    assert.equal(group.format, told);
    const report = await verify(out, { backend, source });
    const values = activations === "int" ? "int8" : "fp8";
    assert.match(report.quantized[0]!.scheme, new RegExp(`${values} activations$`));
    const vllm = report.loaders.find(({ name }) => name === "vLLM")!;
    assert.equal(vllm.opens === "yes", options.scheme === "W4A8", vllm.why);
  });
}

Deno.test("W4AFP8 in groups of 128 is for Hopper, and W4A8 for Arm", async () => {
  await using source = await openCheckpoint(SAMPLE_MODEL);
  await using device = await openWasm({ threads: 1 });
  const why = (scheme: string) => {
    const { loaders } = plan(recipeFromOptions({ scheme, method: "rtn" }), source, { device });
    return loaders.find(({ name }) => name === "vLLM")!;
  };
  assert.deepEqual([why("W4AFP8").opens, why("W4A8").opens], ["yes", "yes"]);
  assert.match(why("W4AFP8").why, /Hopper/);
  assert.match(why("W4A8").why, /Arm/);
});

Deno.test("rounded inputs are measured of weights that no format stores so, and lose more", async () => {
  await using backend = await openWasm({ threads: 2 });
  await using source = await openCheckpoint(SAMPLE_MODEL);
  const evaluation = await prepareWindows(source, { seqLen: 64, numSamples: 2 });
  const lost = async (options: Record<string, string>) => {
    const recipe = recipeFromOptions({ format: "none", ...options });
    const work = plan(recipe, source, { device: backend, evaluation: requestOf(evaluation) });
    assert.deepEqual(work.warnings, []);
    await using sink = openNowhere();
    const { record } = await run(work, { source, backend, sink, evaluation });
    return Number(record.scores.divergence!.mean);
  };
  for (const scheme of ["NF4", "CB4", "FP8", "LLM_INT8"]) {
    const plain = await lost({ scheme });
    if (scheme === "LLM_INT8") continue;
    assert.ok(await lost({ scheme, activations: "int8" }) > plain, scheme);
  }
  const float = plan(recipeFromOptions({ scheme: "NF4", format: "none" }), source, {
    device: backend,
  });
  assert.deepEqual(float.loaders.map(({ opens }) => opens), ["no"]);
});

Deno.test("format none is not chosen by itself, and says what it needs", async () => {
  const words = ["quantize", "sample", "--device", "wasm", "--quiet"];
  for (
    const [more, says] of [
      ["--scheme NF4 --activations fp8 --output none", /can be measured \(--format none\)/],
      ["--scheme FP8 --activations int8 --output none", /can be measured \(--format none\)/],
      ["--scheme NF4 --format none", /nothing would come of it\. Measure something/],
      ["--scheme NF4 --format none --evaluate --output x", /--output with format none/],
      ["--scheme W4A16 --activations dynamic --output x", /say what they become, int8 or fp8/],
    ] as const
  ) {
    const { code, err } = await sluice([...words, ...more.split(" ")]);
    assert.equal(code, 1, err);
    assert.match(err, says);
  }
});
